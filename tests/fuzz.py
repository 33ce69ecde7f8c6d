"""Overrides of configs at random: each is refused in one line or can be meant.

    python tests/fuzz.py --count=2000 --seed=0
    python tests/fuzz.py --count=100 --command  # each typed to launch/run.py, smoke presets

Prints what went wrong and counts; exit code 1 where anything did. The judge knows nothing of the
schema: a number that is not finite, a negative one, or an element of a tuple that has another type
than the others is never to be accepted, nor a share, a rate or a size that cannot be one.
"""

import argparse
import collections
import importlib.util
import math
import pathlib
import random
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import theseus_jax as tj  # noqa: E402
from theseus_jax.errors import UserError  # noqa: E402

NUMBERS = (-1, 0, 1, 2.0, -1e-3, 0.5, 1e-3, 1e9, 1e31, math.nan, math.inf, -math.inf, 2**40, True)
TEXTS = ("", "a", "\u00e9", "[1]", "../x", "no such", "1", "x" * 300)
ODD = (None, (), {}, (1, "a"), ((1, 2),), (math.nan,), (-1,), (1.5,), ("a",), object())
SHARES = re.compile(r"(^|\.)(kl|finish_kl|hint_share|align|validation|test|dropout|momentum)$")
RATES = re.compile(r"(rate|rates(\.\w+)?|temperature|deviation|epsilon)$")
SIZES = re.compile(r"^(seeds|train\.(batch|chunk|epochs)|report\.latency_repeats|convert\.steps)$")


def presets():
    """{name: a function that makes the config} of every preset in configs/."""
    found = {}
    for path in sorted((ROOT / "configs").glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name in ("smoke", "default", "paper"):
            found[f"{path.stem}:{name}"] = lambda module=module, name=name: module.get_config(name)
    return found


def leaves(config, prefix=""):
    for key in config:
        if hasattr(config[key], "keys"):
            yield f"{prefix}{key}"
            yield from leaves(config[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def put(config, path, value):
    """Have a value at a path; what it became there: a ConfigDict makes 1.0 of True."""
    *sections, key = path.split(".")
    with config.unlocked(), config.ignore_type():
        for name in sections:
            config = config[name]
        config[key] = value
    return config[key]


def impossible(path, value, usual):
    """Why no run can mean this value, or ""."""
    if isinstance(usual, (int, float)) and not isinstance(usual, bool):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return "not a number"
        if not math.isfinite(value) or abs(value) > 1e30:
            return "not finite"
        if value < 0:
            return "negative"
        if isinstance(usual, int) and not isinstance(value, int):
            return "not whole"
        if SHARES.search(path) and isinstance(usual, float) and value > 1:
            return "a share above 1"
        if (RATES.search(path) or SIZES.search(path)) and value == 0:
            return "nothing"
    if isinstance(usual, (str, bool)) and type(value) is not type(usual):
        return "another type"
    if isinstance(usual, tuple):
        if not isinstance(value, (tuple, list)):
            return "no tuple"
        for one in value:
            if not isinstance(one, (str, int, float)) or isinstance(one, bool):
                return "an element that is neither name nor number"
            if isinstance(one, (int, float)) and (not math.isfinite(one) or one < 0):
                return "an element that is no number from 0 on"
            if usual and isinstance(one, str) != isinstance(usual[0], str):
                return "an element of another type"
    return "" if not hasattr(usual, "keys") or hasattr(value, "keys") else "no section"


def keys_named(message):
    """What a message calls a key of a config."""
    return re.findall(r"config\.([a-z_]+(?:\.[a-z_]+)*)", message)


def tried(make, path, value):
    """(what is wrong or "", whether it was refused) of one override."""
    config = make()
    usual = config
    for key in path.split("."):
        usual = usual[key]
    value = put(config, path, value)
    try:
        tj.dry_run(config)
    except UserError as error:
        text, there = str(error), set(leaves(make()))
        if "\n" in text or len(text) > 800:
            return f"not one line: {text[:300]!r}", True
        strange = [
            key
            for key in keys_named(text)
            if key not in there and not any(one.startswith(f"{key}.") for one in there)
        ]
        strange = [key for key in strange if key.split(".")[0] not in ("base", "json")]
        return (f"names config.{strange[0]}, which is none: {text}" if strange else ""), True
    except Exception as error:  # whatever comes is what is looked for
        return f"{type(error).__name__}: {error}"[:300], False
    why = impossible(path, value, usual)
    return (f"accepted, {why}" if why else ""), False


def typed(make, name, path, value):
    """As `tried`, of an override on the command line."""
    text = value if isinstance(value, str) else repr(value)
    command = [sys.executable, "launch/run.py", f"--config=configs/{name.replace(':', '.py:')}"]
    command += [f"--config.{path}={text}", "--dry_run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode not in (0, 2) or "Traceback" in done.stderr + done.stdout:
        return f"exit {done.returncode}: {done.stderr[-300:]}", False
    if done.returncode == 2:
        right = len(said) == 1 and said[0].startswith("run.py: ")
        return ("" if right else f"not one line: {said}"), True
    usual = make()
    for key in path.split("."):
        usual = usual[key]
    meant = isinstance(value, (int, float)) and not isinstance(usual, (str, bool))
    value = (value,) if isinstance(usual, tuple) else value  # as the parser of options has it
    why = impossible(path, value, usual) if meant and not isinstance(value, bool) else ""
    return (f"accepted, {why}" if why else ""), False


def main(count, seed, only="", command=False):
    draw, makes = random.Random(seed), presets()
    names = [name for name in makes if only in name and (not command or name.endswith(":smoke"))]
    counts, wrong = collections.Counter(), []
    for _ in range(count):
        name = draw.choice(names)
        path = draw.choice(list(leaves(makes[name]())))
        value = draw.choice(draw.choice((NUMBERS, NUMBERS, TEXTS, ODD)))
        given = (name, path, value) if command else (path, value)
        problem, refused = (typed if command else tried)(makes[name], *given)
        counts["wrong" if problem else "refused" if refused else "accepted"] += 1
        if problem:
            wrong.append(f"{name} config.{path} = {value!r}: {problem}")
            print(wrong[-1], flush=True)
    print(dict(counts), flush=True)
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--command", action="store_true")
    given = parser.parse_args()
    sys.exit(bool(main(given.count, given.seed, given.only, given.command)))
