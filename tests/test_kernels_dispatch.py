"""pallas_kernels around the kernels: what is refused, what "auto" takes, what lowers for CUDA,
tiles, and the benchmark.
"""

import ast
import functools
import importlib
import logging
import math
import pathlib
import re
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_kernels import case

import pallas_kernels as pk
from pallas_kernels import bench, bench_cases, dispatch, layout, measured, sizes, tiles, timing

FOLDER = pathlib.Path(pk.__file__).parent
sys.path.append(str(FOLDER.parent / "benchmarks"))
import compile_h200  # noqa: E402

H200 = dispatch.Device("gpu", "NVIDIA H200", 132)


@pytest.fixture(scope="module")
def small():
    return case((6, 5, 40, 8, 3, 1))


def estimate(c, **changes):
    c = c | {"implementation": "xla"} | changes
    return pk.path_estimator(
        c["x"],
        c["gates"],
        c["inputs"],
        c["units"],
        c["weights"],
        implementation=c["implementation"],
    )


WRONG = {
    "another batch": (
        lambda c: {"gates": (c["gates"][0][:4],)},
        r"gates\[0\] is packed for a batch of 4 and x holds 6",
    ),
    "few words": (
        lambda c: {"gates": (c["gates"][0][:, :1],)},
        r"units\[0\] holds 39, but there are only 32; .*pack all",
    ),
    "signed words": (
        lambda c: {"gates": (c["gates"][0].astype(jnp.int32),)},
        "uint32.*use pack_gates",
    ),
    "bare gates": (lambda c: {"gates": c["gates"][0]}, "tuple of one array per hidden layer"),
    "no gates": (lambda c: {"gates": (), "units": ()}, "tuple of one array per hidden layer"),
    "layers": (lambda c: {"units": c["units"] * 2}, "gates has 1 layers and units 2"),
    "units length": (
        lambda c: {"units": (c["units"][0][:-1],)},
        r"units\[0\] has 7 entries and inputs 8",
    ),
    "inputs dtype": (
        lambda c: {"inputs": c["inputs"].astype(jnp.float32)},
        r"inputs is float32\[8\], expected int32",
    ),
    "inputs range": (
        lambda c: {"inputs": c["inputs"] + 2},
        r"inputs holds 5, but there are only 5",
    ),
    "weights rows": (
        lambda c: {"weights": c["weights"][:-1]},
        r"weights is \[7, 3\] and there are 8 paths; give \(8, O\)",
    ),
    "weights dtype": (
        lambda c: {"weights": c["weights"].astype(jnp.bfloat16)},
        "weights is bfloat16 and x float32",
    ),
    "x dtype": (
        lambda c: {"x": c["x"].astype(jnp.float16)},
        r"x is float16\[6, 5\], expected \(B, I\) of float32",
    ),
    "x axes": (lambda c: {"x": c["x"][0]}, r"x is float32\[5\]"),
    "implementation": (
        lambda c: {"implementation": "triton"},
        "implementation='triton', expected one of auto, xla, pallas",
    ),
    "no GPU": (
        lambda c: {"implementation": "pallas"},
        "needs an NVIDIA GPU .*use implementation='xla'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_in_one_line(name, small):
    change, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as error:
        estimate(small, **change(small))
    assert "\n" not in str(error.value) and str(error.value).startswith("path_estimator: ")


def test_the_other_operations_refuse_too(small):
    c = small
    paths = c["x"], c["gates"], c["inputs"], c["units"]
    with pytest.raises(ValueError, match="path_contributions: inputs"):
        pk.path_contributions(*paths[:2], c["inputs"] + 2, paths[3])
    for kernel, message in (
        (jnp.zeros((4, 40, 3)), "x has 5 inputs"),
        (jnp.zeros((5, 65, 3)), "65 units and gates hold 64"),
        (jnp.zeros((5, 40, 3), jnp.bfloat16), "is bfloat16 and x float32"),
    ):
        with pytest.raises(ValueError, match=f"dense_estimator: kernel .*{message}"):
            pk.dense_estimator(c["x"], c["gates"][0], kernel)
    with pytest.raises(ValueError, match="pack_gates: open is float32.*compare with 0"):
        pk.pack_gates(c["x"])
    with pytest.raises(ValueError, match="65 units asked of 2 words"):
        pk.unpack_gates(c["gates"][0], 65)


def test_traced_indices_out_of_range_are_clamped(small):
    run = jax.jit(lambda i: estimate(small, inputs=i))
    np.testing.assert_array_equal(
        run(small["inputs"] + 100), estimate(small, inputs=jnp.full_like(small["inputs"], 4))
    )
    inputs, units = layout.indices(
        small["x"], small["gates"], jnp.asarray([-1, 3, 5]), (jnp.asarray([-1, 63, 64]),)
    )
    # a kernel has no bounds of its own
    assert inputs.tolist() == [0, 3, 4] and units[0].tolist() == [0, 63, 63]


@pytest.mark.parametrize("implementation", ["xla", "pallas_interpret"])
def test_no_float32_product_is_rounded_to_tf32(implementation, small):
    text = "".join(
        str(jax.make_jaxpr(function)(small)) for function in passes(implementation).values()
    )
    assert (
        text.count("dot_general[")
        == text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
        > 0
    )


def test_auto_falls_back_without_a_gpu_and_says_so_once(small, caplog):
    dispatch._auto.cache_clear()
    with caplog.at_level(logging.INFO, logger="theseus_jax"):
        found = [estimate(small, implementation="auto") for _ in range(2)]
    np.testing.assert_array_equal(found[0], estimate(small))
    assert [record.getMessage() for record in caplog.records] == [
        "path_estimator: implementation xla (no GPU, only cpu; float32, batch, paths, outputs up to"
        " 8, 8, 4)"
    ]


@pytest.fixture()
def measured_file(monkeypatch, tmp_path):
    """write(run, ...): the file that "auto" goes by holds these runs."""

    def forget():
        measured.training_times.cache_clear(), dispatch._auto.cache_clear()

    def write(*runs):
        monkeypatch.setattr(measured, "FILE", tmp_path / "measured.json")
        for run in runs:
            measured.write(measured.FILE, run)
        forget()

    yield write
    monkeypatch.undo()
    forget()


def run_of(pallas, kind="NVIDIA H200"):
    row = {
        "op": "op",
        "pass": "forward+backward",
        "dtype": "float32",
        "batch": 250,
        "paths": 3522,
        "outputs": 128,
        "microseconds": {"xla": 60.0, "pallas": pallas, "dense": 1.0},
    }
    return {"device": kind, "rows": [row, row | {"pass": "forward", "microseconds": {"xla": 1.0}}]}


def test_auto_takes_the_fastest_that_was_measured_on_this_device_and_near_this_size(
    monkeypatch, measured_file
):
    def taken(run, batch=256, target=H200):
        measured_file(run, run_of(1.0, "another card"))
        monkeypatch.setattr(dispatch, "device", lambda: target)
        return dispatch.choose("op", "auto", dtype="float32", batch=batch, paths=3000, outputs=100)

    assert taken(run_of(20.0)) == "pallas" and taken(run_of(70.0)) == "xla"
    assert taken(run_of(20.0), batch=257) == "xla"  # another bucket was never measured
    assert (
        taken(run_of(20.0, kind="NVIDIA A100"), target=dispatch.Device("gpu", "NVIDIA H100", 132))
        == "xla"
    )
    assert taken(run_of(20.0, kind="cpu"), target=dispatch.Device("cpu", "cpu", 1)) == "xla"
    monkeypatch.setattr(dispatch, "triton", None)
    assert taken(run_of(20.0)) == "xla"
    with pytest.raises(ValueError, match="no Triton back end; use implementation='xla'"):
        dispatch.choose("op", "pallas", dtype="float32", batch=1, paths=1, outputs=1)


def test_a_run_takes_the_place_of_the_same_device_alone(tmp_path):
    file = tmp_path / "runs.json"
    assert measured.runs(file) == []
    for run in (run_of(1.0), run_of(2.0, "cpu"), run_of(3.0)):
        measured.write(file, run)
    held = measured.runs(file)
    assert [(run["device"], run["rows"][0]["microseconds"]["pallas"]) for run in held] == [
        ("cpu", 2.0),
        ("NVIDIA H200", 3.0),
    ]
    assert held[1] == run_of(3.0) and not list(tmp_path.glob("*.new"))
    file.write_text('{"rows": []}')
    with pytest.raises(ValueError, match="no file of measured runs.*remove it, or give another"):
        measured.runs(file)


def test_the_measurement_file_holds_this_benchmark_and_auto_goes_by_it(monkeypatch):
    for run in measured.runs(measured.FILE):
        assert (
            run["command"].startswith("python -m pallas_kernels.bench")
            and run["rows"]
            and run["date"]
            and run["jax"]
        )
        for row in run["rows"]:
            size = sizes.SIZES[row["size"]]
            assert (row["paths"], row["outputs"]) == (size.paths, size.outputs) and row[
                "pass"
            ] in bench.OPS[row["op"]]
            assert "xla" in row["microseconds"] and min(row["microseconds"].values()) > 0
    dispatch._auto.cache_clear()
    monkeypatch.setattr(dispatch, "device", lambda: H200)
    wins, losses = [], []
    for row in next(run for run in measured.runs(measured.FILE) if run["device"] == "NVIDIA H200")[
        "rows"
    ]:
        if row["pass"] == "forward":
            continue
        times = row["microseconds"]
        taken = dispatch.choose(
            row["op"],
            "auto",
            dtype=row["dtype"],
            batch=row["batch"],
            paths=row["paths"],
            outputs=row["outputs"],
        )
        assert taken == ("pallas" if times["pallas"] < times["xla"] else "xla")
        (wins if taken == "pallas" else losses).append(row["size"])
    assert wins
    dispatch._auto.cache_clear()


def kernels(function, c):
    return dispatch.lower_for_h200(function, c).as_text().count("__gpu$xla.gpu.triton")


def passes(implementation):
    paths = lambda c: (c["gates"], c["inputs"], c["units"])  # noqa: E731
    run = functools.partial(pk.path_estimator, implementation=implementation)
    return {
        "contributions": lambda c: pk.path_contributions(
            c["x"], *paths(c), implementation=implementation
        ),
        "contributions_dx": lambda c: jax.vjp(
            lambda x: pk.path_contributions(x, *paths(c), implementation=implementation), c["x"]
        )[1](c["ds"]),
        "forward": lambda c: run(c["x"], *paths(c), c["weights"]),
        "weights": lambda c: jax.vjp(lambda w: run(c["x"], *paths(c), w), c["weights"])[1](c["dy"]),
        "x": lambda c: jax.vjp(lambda x: run(x, *paths(c), c["weights"]), c["x"])[1](c["dy"]),
        "value and weights": lambda c: jax.value_and_grad(
            lambda w: run(c["x"], *paths(c), w).sum()
        )(c["weights"]),
        "everything": lambda c: jax.value_and_grad(lambda x, w: run(x, *paths(c), w).sum(), (0, 1))(
            c["x"], c["weights"]
        ),
    }


COUNTS = {
    "contributions": 1,
    "contributions_dx": 1,
    "forward": 1,
    "weights": 1,
    "x": 1,
    "value and weights": 2,
    "everything": 3,
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("layers", [1, 2])
def test_every_kernel_lowers_for_cuda_and_only_what_is_asked_for_is_computed(layers, dtype):
    c = case((300, 24, 70, 150, 130, layers), dtype=dtype)
    assert {name: kernels(function, c) for name, function in passes("pallas").items()} == COUNTS


def test_one_traced_function_serves_every_choice_of_derivatives():
    c = case((6, 5, 40, 8, 3, 1))
    loss = jax.jit(
        lambda x, w: pk.path_estimator(
            x, c["gates"], c["inputs"], c["units"], w, implementation="xla"
        ).sum()
    )
    alone = [jax.grad(loss, i)(c["x"], c["weights"]) for i in (1, 0, 1)]
    dx, dw = jax.grad(loss, (0, 1))(c["x"], c["weights"])
    np.testing.assert_array_equal(alone[0], alone[2])
    np.testing.assert_allclose(alone[1], dx, rtol=1e-6)
    np.testing.assert_allclose(alone[0], dw, rtol=1e-6)


def test_no_array_is_as_large_as_batch_by_inputs_by_units():
    c = case((48, 40, 96, 56, 5, 1))
    for name, function in passes("xla").items():
        text = jax.jit(function).lower(c).compile().as_text()
        largest = max(
            math.prod(map(int, shape.split(",")))
            for shape in re.findall(r"\w+\[(\d+(?:,\d+)*)\]", text)
        )
        # the gates, unpacked; not 48 * 40 * 96
        assert 48 * 96 <= largest <= 48 * 96 * 2, (name, largest)
    for name, function in passes("pallas").items():
        shapes = re.findall(
            r"tensor<(\d+(?:x\d+)*)x\w+>", dispatch.lower_for_h200(function, c).as_text()
        )
        assert max(math.prod(map(int, shape.split("x"))) for shape in shapes) < 48 * 40 * 96, name


def test_float64_is_refused_by_the_compiled_kernels():
    with jax.enable_x64(True):
        c = case((6, 5, 40, 8, 3, 1), dtype=jnp.float64, wide=jnp.float64)
        with pytest.raises(ValueError, match="takes float32 or bfloat16 and x is float64"):
            dispatch.lower_for_h200(passes("pallas")["forward"], c)


@pytest.mark.parametrize("itemsize", [2, 4])
def test_tiles_are_powers_of_two_that_fit_and_fill_the_cores(itemsize):
    for size in sizes.SIZES.values():
        for batch in (1, 16, 256, 4096, 16384):
            shape = batch, size.paths, size.outputs
            forward, weights = (
                choice(*shape, itemsize, 132)
                for choice in (tiles.forward_tiles, tiles.weight_tiles)
            )
            others = (
                tiles.input_tiles(*shape, itemsize),
                tiles.contribution_tiles(*shape[:2], itemsize),
            )
            for tile in (forward, weights, *others):
                assert (
                    all(n & (n - 1) == 0 for n in tile)
                    and min(tile.batch // 2, tile.paths, tile.outputs) >= 16
                )
            assert forward.batch == (64 if batch > 32 else 32)
            programs = (
                -(-batch // forward.batch) * -(-size.outputs // forward.outputs) * forward.splits
            )
            longest = -(-size.paths // forward.paths) // forward.splits
            assert 8 * programs >= 7 * 132 or longest < 4
            assert programs < 2 * 132 or forward.splits == 1
            assert -(-batch // weights.batch) >= 4 * weights.splits or weights.splits == 1
    # float32 multiplies in an unrolled loop: a summed side of 64 spills registers
    assert (
        tiles.forward_tiles(256, 999, 128, 4, 132).paths,
        tiles.weight_tiles(256, 999, 128, 4, 132).batch,
    ) == (32, 32)


ROOF = timing.Roof(4e12, {"float32": 50e12, "bfloat16": 700e12})


def test_lower_bounds_agree_with_hand_computed_ones():
    b1, c2 = sizes.SIZES["B1"], sizes.SIZES["C2"]
    bound = functools.partial(sizes.bound_microseconds, roof=ROOF)
    assert bound(b1, 4096, "float32", backward=True) == pytest.approx(4 * 4096 * 3522 * 128 / 50e6)
    assert bound(c2, 4096, "bfloat16", backward=False) == pytest.approx(
        2 * 4096 * 49472 * 4 / 700e6
    )
    moved = 16 * (1280 * 4 + 320 / 8 + 128 * 4) + 3522 * 128 * 4
    assert bound(b1, 16, "float32", backward=False) == pytest.approx(moved / 4e6)


def test_a_timed_loop_makes_every_call_and_hands_back_the_last(monkeypatch):
    def function(a, b):
        return a @ b, {"more": jnp.sin(a)}

    a, b = jax.random.normal(jax.random.key(0), (2, 24, 24))
    for backend in ("cpu", "gpu"):  # as on a GPU: several calls in one turn of the loop
        monkeypatch.setattr(timing.jax, "default_backend", lambda: backend)
        compiled = jax.jit(timing.looped(function, 32)).lower(a, b).compile()
        token, outputs = compiled(a, b)
        chex.assert_trees_all_close(outputs, function(a, b), rtol=1e-5)
        first = (a @ b)[0, 0] + jnp.sin(a[0, 0])
        np.testing.assert_allclose(token, 32 * first, rtol=1e-4)
        # a loop's body is counted once
        counted, turn = compiled.cost_analysis(), timing.calls_a_turn(32)
        # none is merged with another or left out
        assert counted["flops"] == pytest.approx(turn * 2 * 24**3, rel=0.01)
        assert turn * 24**2 <= counted["transcendentals"] <= 2 * turn * 24**2


def test_counts_of_calls_are_powers_of_two_within_bounds():
    assert [timing.calls(seconds) for seconds in (0.0, 1e-5, 3e-4, 1e-3, 1.0)] == [
        256,
        256,
        8,
        4,
        2,
    ]


def test_the_benchmark_checks_values_and_prints_every_form(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench_cases, "SIZES", {"C1": sizes.Size(16, 32, 3, 40)})
    monkeypatch.setattr(bench.timing, "SAMPLES", 3)
    monkeypatch.setattr(bench.timing, "measured_roof", lambda **_: ROOF)
    monkeypatch.setattr(bench.timing, "calls", lambda seconds: 2)
    assert bench.main([f"--json={tmp_path / 'rows.json'}"]) == 0
    (run,) = measured.runs(tmp_path / "rows.json")
    assert (
        run["failed"] == []
        and run["roof"]["bandwidth"] == 4e12
        and run["empty_call_microseconds"] > 0
    )
    assert [(r["op"], r["batch"], r["dtype"], r["pass"]) for r in run["rows"]] == [
        (op, b, d, p)
        for op, works in bench.OPS.items()
        for b in (16, 256)
        for d in ("float32", "bfloat16")
        for p in works
    ]
    assert all(set(row["microseconds"]) == {"xla", "dense"} for row in run["rows"])
    assert all(0 <= error < 2e-2 for row in run["rows"] for error in row["error"].values())
    printed = capsys.readouterr().out
    assert (
        "no GPU: the compiled kernels were not timed" in printed and printed.count("dense  ") == 8
    )
    assert printed.count(" auto") == 8


def test_the_benchmark_reports_what_fails_or_is_wrong_and_times_the_rest(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(bench_cases, "OPS", {"path_estimator": ("forward+backward",)})
    monkeypatch.setattr(bench.timing, "measured_roof", lambda **_: ROOF)
    whole = bench.operation

    def planted(work, form):
        def wrong(*operands):
            y, dw = whole(work, form)(*operands)
            return y, 1.1 * dw

        def broken(*operands):
            raise RuntimeError("no such\nthing")

        return {"xla": wrong, "pallas_interpret": broken}[form]

    monkeypatch.setattr(bench, "operation", planted)
    assert bench.main(["--toy", f"--json={tmp_path / 'rows.json'}"]) == 1
    (run,) = measured.runs(tmp_path / "rows.json")
    assert all(row["microseconds"] == {} for row in run["rows"])
    assert re.search(
        "toy float32 batch 16 forward.backward xla is off by 1.0e-01 .* allowed 1e-05; not timed",
        run["failed"][0],
    )
    assert run["failed"][1].endswith("pallas_interpret: RuntimeError: no such")
    assert "bench: toy float32" in capsys.readouterr().out


def test_nan_is_never_within_the_tolerance():
    assert np.isnan(bench_cases.error(np.array([1.0, np.nan]), np.array([1.0, 2.0])))
    case = bench_cases.Case(
        "path_estimator", "forward+backward", "toy", bench_cases.TOY, 16, "float32"
    )
    y, dw = bench_cases.expected(bench_cases.draw(case.size, 16, "float32"))
    assert bench_cases.largest_error(case, "xla", (y, dw)) == 0
    assert np.isnan(bench_cases.largest_error(case, "xla", (y, dw * np.nan)))
    assert bench_cases.largest_error(case, "xla", (y * 1.001, dw)) == pytest.approx(1e-3)


def test_runs_of_another_file_are_adopted(tmp_path, capsys):
    source, target = tmp_path / "source.json", tmp_path / "target.json"
    measured.write(source, run_of(1.0))
    measured.write(target, run_of(2.0, "cpu"))
    assert bench.main([f"--adopt={source}", f"--json={target}"]) == 0
    assert [run["device"] for run in measured.runs(target)] == ["cpu", "NVIDIA H200"]
    assert bench.main([f"--adopt={tmp_path / 'none.json'}", f"--json={target}"]) == 2
    assert "holds no run; give a file that --json wrote" in capsys.readouterr().err


def test_compiling_for_an_h200_says_how_to_get_the_plugin(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert compile_h200.main() == 2
    assert "jax-cuda12-plugin==" in capsys.readouterr().err
    line = (
        "022: kCustomKernel [prev] path_estimator_dw grid: [8, 1, 16] threads: [128, 1, 1] "
        " shared_memory: 24832 bytes"
    )
    assert compile_h200.KERNEL.findall(line) == [("path_estimator_dw", "8, 1, 16", "128", "24832")]
    assert {name for dtype in ("float32",) for name in compile_h200.cases(256, dtype)} == {
        "path_contributions",
        "path_contributions_dx",
        "path_estimator",
        "path_estimator_dw",
        "path_estimator_dx",
    }


def test_the_package_imports_jax_alone_names_triton_once_and_stays_small():
    allowed = set(sys.stdlib_module_names) | {
        "jax",
        "jaxlib",
        "numpy",
        "pallas_kernels",
        "__future__",
    }
    for path in FOLDER.glob("*.py"):
        text, nodes = path.read_text(), list(ast.walk(ast.parse(path.read_text())))
        names = {
            alias.name.split(".")[0]
            for node in nodes
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        names |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
        assert names <= allowed, (path.name, names - allowed)
        assert path.name == "dispatch.py" or (
            "pallas_call" not in text and "import triton" not in text
        ), path.name
        assert len(text.splitlines()) <= 300 and max(map(len, text.splitlines())) <= 125, path.name
        for node in nodes:
            assert not isinstance(node, ast.FunctionDef) or node.end_lineno - node.lineno < 60, (
                path.name,
                node.name,
            )
