"""Ctrl-C and termination while something is under way that should end whole: a chunk of steps, a
save.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from typing import Iterator

LOG = logging.getLogger("theseus_jax")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred(what: str, insist: bool = True) -> Iterator[list[int]]:
    """Inside, SIGINT and SIGTERM are kept for the end, and the list given has the numbers of those
    that came; they are raised again on the way out, as whoever was there before handles them.

    what: is being ended first, for people. insist: a second signal does not wait any more. Outside
    the main thread, where Python handles no signal, nothing is changed.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # None: a handler that is not Python's, which could not be put back
    before = {number: handler for number, handler in before.items() if handler is not None}

    def note(number: int, frame: object) -> None:
        came.append(number)
        if len(came) == 1:
            LOG.info("stopping after %s%s", what, "; once more: at once" if insist else "")
        elif insist:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield came
    finally:
        restore()
    if came:
        signal.raise_signal(came[0])
