"""What is stopped ends whole, in one line, and goes on from there; a reader that has seen enough is
no mistake.
"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest
from killing import rows, timeless
from small_text import write_texts

from theseus_jax.experiment.workdir import STEPS, reached
from theseus_jax.interrupts import deferred

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def came():
    """Handlers that note what comes."""
    found = []
    before = {
        one: signal.signal(one, lambda number, frame: found.append(number)) for one in SIGNALS
    }
    yield found
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_inside_is_raised_at_the_end(came, number):
    with deferred("a save", insist=False) as noted:
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert noted == [number] * 2 and came == []
    assert came == [number]


def test_one_that_insists_is_heard_at_once(came):
    with deferred("a chunk"):
        signal.raise_signal(signal.SIGINT)
        assert came == []
        signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT]
    assert came == [signal.SIGINT] * 2 and signal.getsignal(signal.SIGINT) is not None


def test_a_save_inside_a_chunk_waits_for_the_save_first(came):
    with deferred("a chunk") as outer:
        with deferred("a save", insist=False):
            signal.raise_signal(signal.SIGINT)
            assert outer == []
        assert outer == [signal.SIGINT] and came == []
    assert came == [signal.SIGINT]


def test_ctrl_c_is_pythons_after_it(came):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner has its own
    with pytest.raises(KeyboardInterrupt), deferred("a save", insist=False):
        signal.raise_signal(signal.SIGINT)


def test_other_threads_change_no_handler():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with deferred("a save"):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_where_a_run_goes_on(tmp_path):
    assert reached(tmp_path) == "nothing was saved yet"
    for name in ("guide", "converted", "unfinished", "seeds"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert reached(tmp_path) == "the same command goes on after converted, guide"
    (tmp_path / "checkpoints" / "unfinished" / "distilled" / f"{STEPS + 75:08d}").mkdir(
        parents=True
    )
    assert reached(tmp_path) == "the same command goes on in distilled, phase 2, step 75"


# Commands

SMOKE = ["--config=configs/gpt2_to_rnn_plain.py:smoke", "--config.controls.names=()"]
SMOKE += ["--config.seeds=1", "--config.guide.depth=2", "--config.report.latency_repeats=2"]
SMOKE += ["--config.data.source=directory", "--config.data.share=0.5", "--config.data.context=16"]
SMOKE += ["--config.data.validation=0.2", "--config.data.test=0.2"]


def command(path, *more):
    """Of a run on the texts beside its workdir."""
    texts = path.parent / "texts"
    if not texts.exists():
        texts.mkdir()
        write_texts(texts, 20)
    given = [f"--config.data.path={texts}", f"--workdir={path}"]
    return [sys.executable, "launch/run.py", *SMOKE, *given, *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a"
    subprocess.run(command(path), cwd=ROOT, check=True, capture_output=True)
    return path


STOPS = [  # at a row that has the text
    (signal.SIGINT, 130, "stopped", '"model": "guide"'),
    (signal.SIGTERM, 143, "terminated", '"phase": "align_1"'),
]


@pytest.mark.slow
def test_a_run_that_is_stopped_says_where_it_goes_on_and_does(whole, tmp_path):
    path = tmp_path / "a"
    out = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    for number, code, word, wanted in STOPS:
        process = subprocess.Popen(command(path), cwd=ROOT, **out)
        log = path / "metrics.jsonl"
        while process.poll() is None and not (log.exists() and wanted in log.read_text()):
            time.sleep(0.005)
        process.send_signal(number)
        _, shown = process.communicate(timeout=100)
        last = shown.strip().splitlines()[-1]
        assert process.returncode == code and "Traceback" not in shown, shown
        assert last.startswith(f"run.py: {word}; the same command goes on"), last
    subprocess.run(command(path), cwd=ROOT, check=True, capture_output=True)
    assert timeless(rows(path)) == timeless(rows(whole))


@pytest.mark.slow
def test_a_closed_pipe_is_no_mistake_and_a_full_disk_one_line(whole):
    for more in ([], ["--dry_run"]):
        line = shlex.join(command(whole, *more))
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line} | head -1"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
        if os.path.exists("/dev/full"):
            full = subprocess.run(
                ["bash", "-c", f"{line} > /dev/full"], cwd=ROOT, capture_output=True, text=True
            )
            last = full.stderr.strip().splitlines()[-1]
            assert full.returncode == 2 and last.startswith("run.py: what it prints cannot be"), (
                last
            )
            assert "Traceback" not in full.stderr
