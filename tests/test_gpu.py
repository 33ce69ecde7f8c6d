"""launch/gpu.py: a step that hangs, fails or runs out of memory costs its own time alone, and the
summary says so.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from launch import gpu, gpu_conversion, gpu_run, record  # noqa: E402

WRITES = (
    "import json, sys; open(sys.argv[-1].partition('=')[2], 'w').write(json.dumps({'rows': [1],"
    " 'headline': ['%s']}))"
)
CODE = {
    "good": WRITES % "all well",
    "hang": "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)",
    "kept": WRITES % "half of it" + "; import time; time.sleep(60)",
    "fail": "import sys; print('first'); print('no such card'); sys.exit(3)",
    "memory": (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 ** 29, 2 ** 29)); bytearray(2"
        " ** 31)"
    ),
    "jax": (
        "raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9000000000"
        " bytes.')"
    ),
    "silent": "import os; os._exit(9)",
    "fields": WRITES.replace("'rows': [1], ", "") % "no rows",
    "nothing": "pass",
}


def step(name, least=0.0, most=20.0):
    return gpu_run.Step(
        name,
        f"what {name} does",
        least,
        most,
        lambda seconds: [sys.executable, "-c", CODE[name]],
        ("rows", "headline"),
    )


def run(out, *steps, seconds=60.0):
    outcomes = gpu_run.run_steps(steps, out, seconds, say=lambda line: None)
    return {one.step.name: one for one in outcomes}, (out / "summary.txt").read_text()


def test_what_hangs_fails_or_needs_too_much_memory_does_not_stop_the_next(tmp_path):
    found, summary = run(
        tmp_path,
        step("hang", most=1),
        step("fail"),
        step("memory"),
        step("jax"),
        step("silent"),
        step("nothing"),
        step("fields"),
        step("kept", most=2),
        step("good"),
    )
    assert {name: one.state for name, one in found.items()} == {
        "hang": "stopped",
        "fail": "failed",
        "memory": "failed",
        "jax": "failed",
        "silent": "failed",
        "nothing": "failed",
        "fields": "failed",
        "kept": "stopped",
        "good": "done",
    }
    assert found["fail"].why == "exit code 3: no such card"
    assert found["memory"].why == "exit code 1: out of memory: MemoryError"
    assert found["jax"].why.startswith(
        "exit code 1: out of memory: RuntimeError: RESOURCE_EXHAUSTED"
    )
    assert found["silent"].why == "exit code 9: it printed nothing"
    assert (
        found["nothing"].why == "no result (FileNotFoundError)"
        and found["fields"].why == "fields.json has no rows"
    )
    assert (
        found["hang"].why == "ran past its 1 s; no result (FileNotFoundError)"
        and found["hang"].seconds < 10
    )
    assert found["kept"].why == "ran past its 2 s; what it had measured is kept" and found[
        "kept"
    ].headline == ("half of it",)
    for name, one in found.items():
        line = next(line for line in summary.splitlines() if line.startswith(f"{name} "))
        assert one.state in line and (one.why or "what good does") in line
    assert "1 of 9 steps done" in summary and "    all well" in summary


def test_all_that_a_stopped_step_started_is_ended(tmp_path):
    code = (
        "import subprocess, time; print(subprocess.Popen(['sleep', '47']).pid, flush=True);"
        " time.sleep(47)"
    )
    outcome = gpu_run.run_step(
        step("hang", most=1)._replace(command=lambda _: [sys.executable, "-c", code]), tmp_path, 60
    )
    child = int((tmp_path / "hang.log").read_text())
    for _ in range(50):
        state = (
            Path(f"/proc/{child}/stat").read_text().split()[2]
            if Path(f"/proc/{child}").exists()
            else "gone"
        )
        if state in ("Z", "gone"):
            break
        time.sleep(0.1)
    assert outcome.state == "stopped" and state in ("Z", "gone")


def test_a_result_of_an_earlier_run_does_not_count(tmp_path):
    (tmp_path / "nothing.json").write_text(json.dumps({"rows": [1], "headline": ["of last week"]}))
    found, summary = run(tmp_path, step("nothing"))
    assert found["nothing"].state == "failed" and "last week" not in summary


def test_a_step_starts_only_where_its_time_is_left_and_never_gets_more(tmp_path):
    told = []
    slow = step("hang", most=30)._replace(
        command=lambda seconds: told.append(seconds) or [sys.executable, "-c", CODE["hang"]]
    )
    found, summary = run(tmp_path, slow, step("good", least=5), seconds=1.5)
    assert found["hang"].state == "stopped" and found["hang"].seconds < 10 and told[0] <= 1.5
    assert found["good"].state == "not started" and "were left and it needs 5" in summary


def test_the_summary_is_never_longer_than_its_lines_and_names_every_step():
    many = tuple(
        gpu_run.Outcome(step("good")._replace(name=f"step{i}"), "done", "", 1.0, tuple("abcdefgh"))
        for i in range(12)
    )
    text = gpu_run.summary(list(many), (step("good")._replace(name="later"),))
    assert len(text.splitlines()) == gpu_run.SUMMARY_LINES == 60
    assert (
        all(f"\nstep{i} " in text for i in range(12))
        and "later       waiting" in text
        and "12 of 13 steps" in text
    )
    assert (
        max(map(len, gpu_run.told(many[0]._replace(why="x" * 999, headline=("y" * 999,))))) <= 200
    )


def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys):
    for words, message in (
        (
            ["--steps=kernel"],
            "there is no step 'kernel'; choose from device, tests, kernels, alignment",
        ),
        (["--minutes=0"], "--minutes=0 leaves no time; give 8"),
        (["--data=none.npz"], "there is no file none.npz; give the .npz, or no --data"),
    ):
        assert gpu.main([f"--out={tmp_path / 'new'}", *words]) == 2
        assert (
            capsys.readouterr().err.strip().startswith(f"gpu.py: {message}")
            and not (tmp_path / "new").exists()
        )


def test_a_rehearsal_writes_what_a_run_writes(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "launch/gpu.py",
            "--rehearse",
            "--steps=device,tests",
            f"--out={tmp_path}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    device, tests = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("device", "tests")
    )
    shares = device["rows"][0]["counted_share_of_flops"]
    assert shares["product"] == pytest.approx(1) and shares["scan"] == pytest.approx(1 / 7)
    assert (
        shares["convolution"] == pytest.approx(1, rel=0.01)
        and device["command"] == "python -m launch.gpu_steps device"
    )
    assert (
        tests["passed"] == 2
        and tests["failed"] == 0
        and all("one_sample" in row["test"] for row in tests["rows"])
    )


def test_every_step_of_a_run_has_its_toy_and_asks_for_the_same_fields(tmp_path):
    real, toys = gpu.planned(tmp_path, "data.npz", False), gpu.planned(tmp_path, "", True)
    assert [(one.name, one.fields) for one in real] == [(one.name, one.fields) for one in toys]
    assert all(one.least <= one.most for one in (*real, *toys))
    different = [one.name for one, toy in zip(real, toys) if one.command(100) != toy.command(100)]
    assert different == ["tests", "kernels", "alignment", "similarity", "cifar10", "gpt2"]


def test_steps_of_a_conversion_are_what_its_time_allows():
    plan = gpu_conversion.CONVERSIONS["cifar10"]._replace(
        steps={"guide.steps": 50.0, "convert.steps": 20.0},
        share={"guide.steps": 0.5, "convert.steps": 0.1},
        start=60.0,
    )
    assert gpu_conversion.scaled_steps(plan, 160) == {"guide.steps": 2500, "convert.steps": 200}
    assert gpu_conversion.scaled_steps(plan, 30) == {"guide.steps": 20, "convert.steps": 20}
    for name, plan in gpu_conversion.CONVERSIONS.items():
        whole = gpu_conversion.preset_steps(plan.config, tuple(plan.steps))
        changes = gpu_conversion.changed(name, 1e6, Path("."), "there.npz", toy=False)
        assert {key: changes[key] for key in whole} == whole  # never more than the preset's
        assert changes.get("data.path") == {"cifar10": "there.npz"}.get(name)


def test_an_unfinished_conversion_tells_how_far_it_came(tmp_path):
    rows = [
        {"kind": "train", "model": "guide", "phase": "train", "step": step} for step in (50, 100)
    ]
    text = (
        "\n".join(map(json.dumps, [*rows, {"kind": "eval", "model": "guide"}])) + '\n{"kind": "tr'
    )
    (tmp_path / "metrics.jsonl").write_text(text)
    found, kept, line = gpu_conversion.outcome(tmp_path, "stopped after 9 s")
    assert found == rows[1:] and kept == {"why": "stopped after 9 s"}
    assert line == "not finished (stopped after 9 s); reached guide/train step 100"
    assert gpu_conversion.outcome(tmp_path / "none", "exit code 2")[2].endswith(
        "reached no training step"
    )


def test_a_conversion_that_runs_out_of_time_still_writes_its_row(tmp_path):
    assert (
        gpu_conversion.conversion(
            str(tmp_path / "gpt2.json"), "gpt2", str(tmp_path / "run"), 0.5, "", toy=True
        )
        == 1
    )
    held = json.loads((tmp_path / "gpt2.json").read_text())
    assert (
        held["finished"] is False
        and held["why"] == "stopped after 0 s"
        and held["steps"]["guide.steps"]["preset"] == 3000
    )


def test_a_record_names_its_command_and_is_never_half_a_file(tmp_path, monkeypatch):
    jax.devices()  # XLA reads its flags once, and ends the process for one that it does not know
    monkeypatch.setattr(
        sys, "argv", ["launch/bench.py", "--shape=quick", "--json=x", "--workdir=y", "--data=z"]
    )
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setenv("XLA_FLAGS", "--xla_some=1")
    assert (
        record.command() == "python launch/bench.py --shape=quick"
        and record.about()["xla_flags"] == "--xla_some=1"
    )
    record.record(str(tmp_path / "a.json"), [{"x": 1}], headline=["one"], more=2)
    held = json.loads((tmp_path / "a.json").read_text())
    assert (held["rows"], held["headline"], held["more"]) == (
        [{"x": 1}],
        ["one"],
        2,
    ) and os.listdir(tmp_path) == ["a.json"]
    assert record.spread("a", np.arange(5.0)) == {"a_ms": 2.0, "a_iqr_ms": 2.0}
    assert record.first_line(ValueError("\n one \n two")) == "ValueError: one"
