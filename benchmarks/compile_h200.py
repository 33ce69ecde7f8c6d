"""Compiles every kernel to sm_90a machine code without a GPU: `python benchmarks/compile_h200.py`.

Prints, at the sizes of B1, what each kernel takes to compile and what a program of it takes of a
multiprocessor. Needs the CUDA plugin of jax beside the CPU's, no CUDA toolkit; without it says how
to get it and exits with 2.
"""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import re
import sys
import tempfile
import time
import warnings

import jax
import jax.numpy as jnp
import jaxlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import pallas_kernels as pk  # noqa: E402
from pallas_kernels.sizes import SIZES  # noqa: E402

TARGET = """platform_name: "CUDA" device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 8 patch: 0 }
gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
 threads_per_core_limit: 2048 core_count: 132
 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
 memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
 device_memory_size: 150000000000
 registers_per_core_limit: 65536 registers_per_block_limit: 65536
 cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES } }"""
KERNEL = re.compile(
    r"\b(path_\w+) grid: \[([\d, ]+)\] threads: \[(\d+), 1, 1\]\s+shared_memory: (\d+) bytes"
)


def cases(batch: int, dtype: str) -> dict:
    """{kernel name: (function, operands)} at B1, with as few kernels as possible in each
    function.
    """
    size, shape = SIZES["B1"], jax.ShapeDtypeStruct
    x, index = shape((batch, size.inputs), dtype), shape((size.paths,), jnp.int32)
    paths = (x, (shape((batch, size.units // 32), jnp.uint32),), index, (index,))
    weights, dy = (shape((rows, size.outputs), jnp.float32) for rows in (size.paths, batch))
    estimate = functools.partial(pk.path_estimator, implementation="pallas")
    contribute = functools.partial(pk.path_contributions, implementation="pallas")

    def weight_gradient(x, gates, inputs, units, weights, dy):
        return jax.vjp(lambda w: estimate(x, gates, inputs, units, w), weights)[1](dy)

    def input_gradient(x, gates, inputs, units, weights, dy):
        return jax.vjp(lambda x: estimate(x, gates, inputs, units, weights), x)[1](dy)

    def contributions_gradient(x, gates, inputs, units, ds):
        return jax.vjp(lambda x: contribute(x, gates, inputs, units), x)[1](ds)

    return {
        "path_contributions": (contribute, paths),
        "path_contributions_dx": (
            contributions_gradient,
            (*paths, shape((batch, size.paths), dtype)),
        ),
        "path_estimator": (estimate, (*paths, weights)),
        "path_estimator_dw": (weight_gradient, (*paths, weights, dy)),
        "path_estimator_dx": (input_gradient, (*paths, weights, dy)),
    }


def compile_for_h200(function, operands) -> tuple[float, dict[str, tuple[str, int, int]]]:
    """Seconds, and {kernel: (grid, threads, bytes of shared memory)}; raises where a kernel does
    not fit.
    """
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="cuda", target_config=TARGET, topology="1x1x1")
    mesh = jax.sharding.Mesh(topology.devices, ("device",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    operands = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=everywhere), operands
    )
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
    ):
        lowered = (
            jax.jit(function, out_shardings=everywhere)
            .trace(*operands)
            .lower(lowering_platforms=("cuda",))
        )
        lowered.compile(compiler_options={"xla_dump_to": folder})
        seconds = time.perf_counter() - start
        text = "".join(
            path.read_text()
            for path in pathlib.Path(folder).glob("*thunk_sequence_after_thunk_passes*")
        )
    return seconds, {
        name: (grid, int(threads), int(shared))
        for name, grid, threads, shared in KERNEL.findall(text)
    }


def main() -> int:
    """Prints the table; 2 where the plugin is missing, else 0."""
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        print(
            "compile_h200: no CUDA plugin; pip install --no-deps --target cuda"
            f" jax-cuda12-plugin=={jaxlib.__version__} jax-cuda12-pjrt=={jaxlib.__version__}, then"
            " run with PYTHONPATH=cuda",
            file=sys.stderr,
        )
        return 2
    # the plugin compiles; there need be no device for it to find
    jax.config.update("jax_platforms", "cpu")
    # jax 0.11 says of each kernel that Triton will go
    warnings.simplefilter("ignore", DeprecationWarning)
    print(f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, target sm_90a, B1: {SIZES['B1']}")
    print(
        f"{'kernel':22} {'dtype':9} {'batch':>5} {'grid':>12} {'threads':>7} {'shared bytes':>12}"
        f" {'seconds':>7}"
    )
    for dtype in ("float32", "bfloat16"):
        for batch in (256, 4096):
            for name, (function, operands) in cases(batch, dtype).items():
                seconds, kernels = compile_for_h200(function, operands)
                grid, threads, shared = kernels[name]
                print(
                    f"{name:22} {dtype:9} {batch:5} {grid:>12} {threads:7} {shared:12}"
                    f" {seconds:7.2f}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
