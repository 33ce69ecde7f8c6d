"""How a command ends: the user's mistake is one line and exit code 2, Ctrl-C one line and 130,
termination one line and 143; a reader of its output that has seen enough is no mistake.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
from typing import Any, Callable, NoReturn


def _too_early(number: int, frame: Any) -> NoReturn:
    name = pathlib.Path(sys.argv[0]).name
    os.write(2, f"{name}: stopped before anything began\n".encode())
    os._exit(128 + number)


for _number in (signal.SIGINT, signal.SIGTERM):  # importing jax takes seconds
    signal.signal(_number, _too_early)

from theseus_jax.errors import UserError  # noqa: E402


class Terminated(BaseException):
    """SIGTERM came."""


def command(main: Callable[[], None], stopped: Callable[[], str] = lambda: "") -> None:
    """Run `main`, of the script that was started. stopped(): what a command that was stopped says
    of what is left.
    """

    def terminate(number: int, frame: Any) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            main()
        finally:
            sys.stdout.flush()  # absl's app.run ends in SystemExit
    except UserError as error:
        _end(str(error), 2)
    except BrokenPipeError:
        _silent(sys.stdout)
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        _end(f"stopped{_after(stopped)}", 128 + signal.SIGINT)
    except Terminated:
        _end(f"terminated{_after(stopped)}", 128 + signal.SIGTERM)
    except OSError as error:
        if error.filename is not None:  # of a file: those who write one say so themselves
            raise
        _silent(sys.stdout)
        _end(f"what it prints cannot be written ({error.strerror}); give it another place", 2)


def _after(stopped: Callable[[], str]) -> str:
    told = stopped()
    return f"; {told}" if told else ""


def _end(line: str, code: int) -> NoReturn:
    """The last line, then out: threads of a save that failed may not print after it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    print(f"{pathlib.Path(sys.argv[0]).name}: {line}", file=sys.stderr, flush=True)
    _silent(sys.stderr)
    raise SystemExit(code) from None


def _silent(stream: Any) -> None:
    """What is still printed there goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
