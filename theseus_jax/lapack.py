"""Threads of the LAPACK that XLA calls on a CPU."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
import os
import pathlib

LOG = logging.getLogger("theseus_jax")
NAMES = ("scipy_openblas_set_num_threads", "openblas_set_num_threads")


@functools.lru_cache(maxsize=None)
def one_thread() -> bool:
    """Holds SciPy's OpenBLAS, which XLA calls for QR, SVD and the like on a CPU, to one thread;
    True if it did.

    Its waiting threads take the cores from XLA's own: value and gradient of Procrustes distance at
    N = 1024, P = 128 take 6 ms with two of them and 2 with one (2 cores), and hundreds where
    another process works beside. Once a process; NumPy's own library is left as it is, and so is
    everything where OPENBLAS_NUM_THREADS is set.
    """
    if os.environ.get("OPENBLAS_NUM_THREADS"):
        return False
    held = [_hold(path) for path in libraries()]
    LOG.debug("OpenBLAS held to one thread: %s", held)
    return any(held)


def libraries() -> list[pathlib.Path]:
    """The OpenBLAS libraries that come with SciPy's wheel; none where SciPy has another one."""
    found = importlib.util.find_spec("scipy")
    if found is None or not found.origin:
        return []
    package = pathlib.Path(found.origin).parent
    folders = (package.with_name("scipy.libs"), package / ".dylibs")
    return [path for folder in folders for path in sorted(folder.glob("*openblas*"))]


def _hold(path: pathlib.Path) -> bool:
    try:
        import scipy.linalg.cython_lapack  # noqa: F401  # as XLA does: its libraries in their order

        library = ctypes.CDLL(str(path))
    except (ImportError, OSError):
        return False
    for name in (full for short in NAMES for full in (short, f"{short}64_")):
        if hasattr(library, name):
            getattr(library, name)(1)
            return True
    return False
