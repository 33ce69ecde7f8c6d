"""A run in a process of its own, killed at chosen moments, then left to end."""

import json
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = """
import json, sys
sys.path.insert(0, sys.argv[1])
from ml_collections import ConfigDict
import theseus_jax as tj
tj.run(ConfigDict(json.load(open(sys.argv[2]))), sys.argv[3])
"""


def rows(path):
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def timeless(found):
    """Rows without what differs between two runs of the same work."""
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in found]


def killed_and_ended(config, path, moments):
    """Run `config` in `path`; kill it when each of `moments` (text of a row) is there, then let it
    end.
    """
    settings = path.with_suffix(".json")
    settings.write_text(config.to_json())
    command = [sys.executable, "-c", LAUNCH, str(ROOT), str(settings), str(path)]
    for wanted in moments:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        log = path / "metrics.jsonl"
        while process.poll() is None and not (log.exists() and wanted in log.read_text()):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (path / "results.json").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
