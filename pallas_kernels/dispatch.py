"""Which implementation runs, and the one seam that knows the back end of Pallas and its compiler
parameters.

The kernels are written for the Triton back end, which jax deprecates since 0.11 and still ships:
`pallas_call` without compiler parameters means another compiler on jax 0.10 than on 0.11, so they
are always given.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl

from pallas_kernels.measured import bucket, training_times

try:
    from jax.experimental.pallas import triton
except ImportError:
    # a jax that has dropped the back end: everything but "pallas" and "pallas_interpret" works on
    triton = None

IMPLEMENTATIONS = ("auto", "xla", "pallas", "pallas_interpret")
H200 = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="gpu")
LOG = logging.getLogger("theseus_jax")


class Device(NamedTuple):
    """What a choice depends on: platform ("cpu", "gpu"), kind as the driver names it, streaming
    multiprocessors.
    """

    platform: str
    kind: str
    cores: int


def device() -> Device:
    """The device that is traced for: that of the abstract mesh in use, where one is, else the
    default device.
    """
    abstract = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if abstract is not None:
        return Device(abstract.platform, abstract.device_kind, abstract.num_cores or 1)
    default = jax.config.jax_default_device
    chosen = jax.devices(default)[0] if default is None or isinstance(default, str) else default
    return Device(chosen.platform, chosen.device_kind, getattr(chosen, "core_count", None) or 1)


def working_set() -> int:
    """Bytes of S that the xla form builds at once; it builds all of S if that is at most twice as
    much.

    On a CPU a tile that stays in the cache is 2 to 30 times faster than S through memory (S of 14
    to 48 MB, 2 cores with 32 MB of level 3), and any tile of 0.5 to 2 MB does. On a GPU every tile
    costs kernel launches, so tiles are there only to bound memory.
    """
    return 2**21 if device().platform == "cpu" else 2**28


def _unavailable(target: Device) -> str | None:
    """Why the compiled kernels cannot run there, or None."""
    if target.platform not in ("gpu", "cuda"):
        return f"no GPU, only {target.kind}"
    return "this jax has no Triton back end" if triton is None else None


@functools.lru_cache(maxsize=None)
def _auto(op: str, target: Device, dtype: str, near: tuple[int, ...]) -> str:
    """Cached, so that a choice is made and logged once."""
    times = training_times().get((target.kind, op, dtype, near), {})
    missing = _unavailable(target)
    usable = {
        name: time
        for name, time in times.items()
        if name == "xla" or (name == "pallas" and missing is None)
    }
    taken = min(usable, key=usable.get) if usable else "xla"
    if missing is not None:
        why = missing
    elif usable:
        why = "measured " + ", ".join(
            f"{name} {time:.1f} us" for name, time in sorted(usable.items())
        )
    else:
        why = f"not measured on {target.kind} at this size"
    LOG.info(
        "%s: implementation %s (%s; %s, batch, paths, outputs up to %s)",
        op,
        taken,
        why,
        dtype,
        ", ".join(str(2**exponent) for exponent in near),
    )
    return taken


def choose(op: str, implementation: str, *, dtype, batch: int, paths: int, outputs: int) -> str:
    """The implementation that runs: the one named, or for "auto" the fastest one measured on this
    device.

    "auto" never raises for what an implementation lacks, takes "xla" where nothing was measured or
    the batch is a symbolic dimension of `jax.export`, and logs each distinct choice once. Raises
    ValueError for an unknown name, or for "pallas" where it cannot run.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"{op}: implementation={implementation!r}, expected one of"
            f" {', '.join(IMPLEMENTATIONS)}; choose one"
        )
    if implementation == "auto" and not isinstance(batch, int):
        return "xla"  # exported with an open batch: no size to go by, and no tiles for a kernel
    if implementation == "auto":
        return _auto(op, device(), str(jax.numpy.dtype(dtype)), bucket(batch, paths, outputs))
    missing = _unavailable(device())
    if implementation == "pallas" and missing:
        raise ValueError(
            f"{op}: implementation='pallas' needs an NVIDIA GPU and Triton, here is {missing}; "
            "use implementation='xla'"
        )
    if implementation == "pallas" and str(dtype) == "float64":
        raise ValueError(
            f"{op}: implementation='pallas' takes float32 or bfloat16 and x is float64; "
            "use implementation='xla'"
        )
    return implementation


def load(ref, *index: jax.Array) -> jax.Array:
    """Entries of a ref at integer arrays of one shape: a gather, which plain indexing of a ref
    cannot express.
    """
    return triton.load(ref.at[index])


def call(
    kernel: Callable,
    *operands: jax.Array,
    name: str,
    grid: Sequence[int],
    in_specs: Sequence,
    out_specs,
    out_shape,
    tiles,
    interpret: bool,
):
    """`pallas_call` with the back end named; every grid axis runs in parallel."""
    parameters = triton.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages)
    return pl.pallas_call(
        kernel,
        name=name,
        grid=tuple(grid),
        in_specs=list(in_specs),
        out_specs=out_specs,
        out_shape=out_shape,
        interpret=interpret,
        compiler_params=parameters,
    )(*operands)


def whole(array: jax.Array) -> pl.BlockSpec:
    """A block that is all of `array`, for operands that a program gathers from."""
    return pl.BlockSpec(array.shape, lambda *_: (0,) * array.ndim)


def lower_for_h200(function: Callable, *operands):
    """`function` lowered for CUDA without a GPU: what its kernels are allowed to say is checked,
    nothing is compiled.
    """
    with jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((1,), ("device",), abstract_device=H200)
    ):
        return jax.jit(function).trace(*operands).lower(lowering_platforms=("cuda",))
