"""Run a config: python launch/run.py --config=configs/NAME.py[:PRESET] [--workdir=DIR]
[--config.KEY=VALUE ...] [--dry_run]

Exit codes: 0 done, 2 the user's mistake (one line), 130 and 143 stopped (one line; the same command
goes on), anything else a bug.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from launch.edge import command  # noqa: E402
from theseus_jax.errors import UserError  # noqa: E402
from theseus_jax.paths import local

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py[:PRESET]", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "where the run leaves its files; default runs/NAME[-PRESET]"
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print shapes, parameters and phases, and stop")
flags.mark_flag_as_required("config")


def _default_workdir() -> str:
    path, _, preset = flags.FLAGS["config"].config_filename.partition(":")
    return str(pathlib.Path("runs") / (pathlib.Path(path).stem + (f"-{preset}" if preset else "")))


def _set_up_process() -> None:
    """One plain line a message, and compiled programs kept beside the checkout unless JAX is told
    another place.
    """
    import jax
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.WARNING)
    log, handler = logging.getLogger("theseus_jax"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update(
            "jax_compilation_cache_dir",
            str(pathlib.Path(__file__).resolve().parents[1] / ".cache" / "jax"),
        )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def main(argv: list[str]) -> None:
    began = time.monotonic()
    if len(argv) > 1:
        raise UserError(f"not understood: {' '.join(argv[1:])}; options start with --")
    path = flags.FLAGS["config"].config_filename.partition(":")[0]
    if not pathlib.Path(path).exists():
        raise UserError(f"there is no config file {path}; the project's are in configs/")
    _set_up_process()
    from theseus_jax import experiment, report

    if _DRY_RUN.value:
        print(experiment.dry_run(_CONFIG.value))
        return
    workdir = local(_WORKDIR.value or _default_workdir())
    if str(workdir).startswith("--"):
        raise UserError(f"--workdir is {workdir}, an option; give --workdir=FOLDER, or ./{workdir}")
    print(f"writing to {workdir}", flush=True)
    results = experiment.run(_CONFIG.value, workdir)
    print(f"\n{report.table(results)}\n\n{workdir}/report.html  ({time.monotonic() - began:.0f} s)")


def _unknown_setting(argv: list[str]) -> str | None:
    """The first --config.KEY that the config file does not have, as one line; None if all are
    there.
    """
    given = dict(item.lstrip("-").partition("=")[::2] for item in argv[1:] if item.startswith("-"))
    path, _, preset = given.get("config", "").partition(":")
    if not pathlib.Path(path).is_file():
        return None
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in [name for name in given if name.startswith("config.")]:
        section, at = module.get_config(preset or None), "config"
        for key in name.split(".")[1:]:
            there = list(section.keys()) if hasattr(section, "keys") else []
            if key not in there:
                close = difflib.get_close_matches(key, there, 1)
                return (
                    f"there is no {at}.{key} in {path}; "
                    + (f"did you mean {at}.{close[0]}? " if close else "")
                    + (
                        f"{at} has {', '.join(sorted(there))}"
                        if there
                        else f"{at} is a single value"
                    )
                )
            section, at = section[key], f"{at}.{key}"
    return None


def _parse(argv: list[str]) -> list[str]:
    """absl's parsing, with every mistake in a flag or a config file as one line and exit code 2."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # a mistake inside a config file comes as a whole traceback in the message: its last line
        # says what it is
        unknown = None if "Traceback" in str(error) else _unknown_setting(argv)
        if unknown:
            print(f"run.py: {unknown}", file=sys.stderr)
            raise SystemExit(2) from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        line = (
            lines[-1].partition("UserError: ")[2] or lines[-1]
            if "Traceback" in str(error)
            else " ".join(lines)
        )
        print(f"run.py: {line[:400]}", file=sys.stderr)
        raise SystemExit(2) from None


def _stopped() -> str:
    """Where the run that was stopped goes on."""
    from theseus_jax.experiment.workdir import reached

    if not flags.FLAGS.is_parsed() or _DRY_RUN.value:
        return ""
    return reached(local(_WORKDIR.value or _default_workdir()))


if __name__ == "__main__":
    command(lambda: app.run(main, flags_parser=_parse), _stopped)
