"""Renews the golden texts of the configs: python tests/golden/make_configs.py"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from test_configs import GOLDEN, NAMES, build  # noqa: E402

for name, preset in NAMES:
    text = json.dumps(json.loads(build(name, preset).to_json()), indent=1, sort_keys=True)
    (GOLDEN / f"{name}-{preset}.json").write_text(text + "\n")
    print(f"{name}-{preset}")
