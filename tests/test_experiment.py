"""A whole run from a config: the files of the contract, resuming after SIGKILL, and mistakes in one
line.
"""

import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from killing import killed_and_ended, rows, timeless
from scipy import stats
from settings import changed
from small_text import LANGUAGE, write_texts

import theseus_jax as tj
from theseus_jax import config as schema
from theseus_jax import cost
from theseus_jax.arms import Arm
from theseus_jax.data import text
from theseus_jax.data.windows import evaluation_windows
from theseus_jax.errors import UserError
from theseus_jax.evaluate import token_loss
from theseus_jax.experiment.models import record
from theseus_jax.methods.conversion.results import claims
from theseus_jax.tasks.labelled import Task as Labelled
from theseus_jax.tasks.language import Task as Language
from theseus_jax.trees import bit_equal

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOSS, ACCURACY = Language.compared, Labelled.compared
ROLES = {"guide": "guide", "converted": "ours"}
TINY = LANGUAGE | {
    "data.context": 8,
    "data.test": 0.2,
    "target.hidden": 8,
    "target.cell": "elman",
    "convert.steps": 12,
    "convert.align": 0.5,
    "convert.schedule": "sequential",
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"), 20)


def tiny(texts, **changes):
    return changed(schema.base(), {**TINY, "data.path": str(texts)}, **changes)


@pytest.fixture(scope="module")
def finished(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    return path, tj.run(tiny(texts), path)


def test_a_run_writes_every_file_of_the_contract(finished):
    path, results = finished
    for name in (
        "config.json",
        "plan.txt",
        "versions.json",
        "metrics.jsonl",
        "results.json",
        "report.html",
    ):
        assert (path / name).stat().st_size > 0, name
    assert json.loads((path / "results.json").read_text()) == results
    names = [model["name"] for model in results["models"]]
    assert names[:6] == [
        "guide",
        "converted",
        "from_scratch",
        "distilled",
        "one_shot",
        "one_shot_distilled",
    ]
    for model in results["models"]:
        assert len(model["seeds"]) == (1 if model["name"] == "guide" else 2)
        assert model["value"] == pytest.approx(np.mean(np.exp(model["losses"])))
        assert (
            model["training_flops"] > 0
            and model["flops_per_example"] > 0
            and model["latency_us"] > 0
        )
        assert (
            model["optimizer_steps"] >= 12
            and model["examples_seen"] == 8 * model["optimizer_steps"]
        )
    assert [stage["stage"] for stage in results["stages"]] == ["block_1", "norm"]
    assert {claim["holds"] for claim in results["claims"]} <= {True, False} and len(
        results["claims"]
    ) == 9


def test_the_table_is_what_the_restored_networks_score(finished, texts):
    path, results = finished
    c = tiny(texts).data
    corpus = text.load_corpus(
        source=c.source,
        path=c.path,
        tokenizer=c.tokenizer,
        validation_fraction=0.2,
        test_fraction=0.2,
    )
    windows, mask = evaluation_windows(corpus.test, c.context)
    for model in results["models"][:3]:
        for seed, loss in enumerate(model["losses"]):
            net, variables = tj.restore(path, model["name"], seed)
            stacked = jax.tree.map(lambda leaf: leaf[None], variables)
            assert token_loss(net, stacked, windows, mask)[0] == pytest.approx(loss, rel=1e-6)


def test_controls_get_at_least_the_flops_of_the_conversion(finished):
    models = {model["name"]: model for model in finished[1]["models"]}
    for name in ("from_scratch", "distilled", "one_shot", "one_shot_distilled"):
        rival = models.get(f"{name}_equal_flops", models[name])
        assert rival["training_flops"] >= models["converted"]["training_flops"]
        assert models[name]["optimizer_steps"] == models["converted"]["optimizer_steps"]


def test_a_finished_run_is_read_and_another_config_refused(finished, texts):
    path, results = finished
    before = (path / "metrics.jsonl").read_bytes()
    assert tj.run(tiny(texts), path) == results
    with pytest.raises(UserError, match="convert.steps is 12 there and 14 here"):
        tj.run(tiny(texts, convert__steps=14), path)
    assert (path / "metrics.jsonl").read_bytes() == before


def test_restoring_what_is_not_there_names_what_is(finished):
    with pytest.raises(UserError, match="converted, distilled"):
        tj.restore(finished[0], "student")
    with pytest.raises(UserError, match="holds no finished model"):
        tj.restore(finished[0] / "nowhere")


def test_the_outline_needs_no_data_and_has_exact_parameters(finished, texts):
    outline = tj.dry_run(tiny(pathlib.Path("/nowhere")))
    net, variables = tj.restore(finished[0])
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert f"target: {count:,} parameters" in outline
    places = [
        outline.index(f"\n  {name} ") for name in ("embed", "block_1", "block_2", "norm", "head")
    ]
    assert places == sorted(places)
    assert "Bx8x257 float32" in outline and "block_1 = block_1, norm = norm" in outline


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_rows_and_weights(texts, tmp_path, finished):
    """Killed twice at different places, the run ends with the rows and weights of one that was
    never killed.
    """
    moments = ('"phase": "align_1"', '"model": "distilled"')
    killed_and_ended(tiny(texts, train__save_seconds=0.0), tmp_path / "b", moments)
    assert timeless(rows(tmp_path / "b")) == timeless(rows(finished[0]))
    for name in ("guide", "converted", "one_shot_distilled"):
        assert bit_equal(tj.restore(tmp_path / "b", name)[1], tj.restore(finished[0], name)[1])


@pytest.mark.slow
def test_targets_of_another_depth_inherit_and_convert(texts, tmp_path):
    results = tj.run(
        tiny(texts, guide__depth=1, target__depth=2, seeds=1, controls__names=(), guide__steps=3),
        tmp_path / "f",
    )
    assert [stage["guide_stage"] for stage in results["stages"]] == ["norm"]
    assert all(
        not claim["holds"]
        for claim in results["claims"]
        if claim["text"].startswith("converted beats")
    )


@pytest.mark.slow
def test_an_untrained_guide_and_adapters_run_to_the_end(texts, tmp_path):
    c = tiny(
        texts,
        guide__origin="untrained",
        convert__inherit=(),
        convert__schedule="joint",
        seeds=1,
        controls__names=(),
        target__width=12,
        target__adapter_rank=4,
    )
    results = tj.run(c, tmp_path / "c")
    assert [model["name"] for model in results["models"]] == ["guide", "converted"]
    assert results["models"][0]["optimizer_steps"] == 0
    phases = [row for row in rows(tmp_path / "c") if row["kind"] == "phase"]
    assert [row["optimizer_steps"] for row in phases] == [6, 6]


MISTAKES = [
    ({"guide__heads": 3}, "not a multiple of 3 heads"),
    ({"convert__metric": "svcca"}, "choose one of"),
    ({"convert__schedule": "sideways"}, "progressive"),
    ({"convert__mapping": "block_1=block_7, norm=norm"}, "block_7"),
    ({"target__cell": "transformer"}, "elman, gru, lstm, linear"),
    ({"target__block": "cubic"}, "plain, residual"),
    ({"convert__align": 1.0}, "share of the steps"),
    ({"convert__steps": 2}, "without steps"),
    ({"seeds": 0}, "at least 1"),
    (
        {"convert__samples": "sequences", "train__batch": 2},
        "needs at least 4 samples and a batch gives 2",
    ),
    ({"convert__metric": "dmnn", "convert__neighbours": 90}, "samples and a batch gives 64"),
    ({"target__width": 12, "target__adapter_rank": 0}, "guide width 16 and target width 12 differ"),
    ({"controls__names": ("luck",)}, "from_scratch"),
    ({"guide__origin": "file", "guide__weights": "no.npz"}, "no.npz"),
    ({"data__path": "nowhere"}, "nowhere"),
    ({"data__context": 4000}, "needs 4001"),
    ({"data__share": 0.0}, "(0, 1]"),
    (
        {
            "target__block": "plain",
            "target__hidden": 12,
            "convert__metric": "mse",
            "convert__inherit": (),
        },
        "12",
    ),
    ({"report__prompt": ""}, "prompt that is not empty"),
    ({"convert__inherit": ("attn",)}, "cannot inherit attn"),
    ({"guide__learning_rate": 1e30, "train__clip": 1e30}, "not finite"),
]


@pytest.mark.parametrize(
    "changes, word", MISTAKES, ids=[next(iter(m[0])) + str(i) for i, m in enumerate(MISTAKES)]
)
def test_mistakes_are_one_line_that_names_them(changes, word, texts, tmp_path):
    with pytest.raises(UserError) as caught:
        tj.run(tiny(texts, **changes), tmp_path / "d")
    assert re.search(re.escape(word), str(caught.value)) and "\n" not in str(caught.value)


def launch(*arguments):
    return subprocess.run(
        [sys.executable, "launch/run.py", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "arguments, word",
    [
        (
            ["--config=configs/gpt2_to_rnn.py", "--config.convert.stepz=3"],
            (
                "there is no config.convert.stepz in configs/gpt2_to_rnn.py; did you mean"
                " config.convert.steps? config.convert has align, "
            ),
        ),
        (
            ["--config=configs/gpt2_to_rnn.py", "--config.data.size=32"],
            "there is no config.data.size in configs/gpt2_to_rnn.py; config.data has context",
        ),
        (
            ["--config=configs/gpt2_to_rnn.py", "--config.convert.steps.more=1"],
            "config.convert.steps is a single value",
        ),
        (["--config=configs/gpt2_to_rnn.py:tiny"], "there is no preset 'tiny'"),
        (["--config=configs/gpt2_to_rnn.py", "--config.convert.steps=abc"], "abc"),
        (["--config=configs/nothing.py"], "nothing.py"),
        (["--config=configs/gpt2_to_rnn.py", "config.seeds=3"], "config.seeds=3"),
        (["--config=configs/gpt2_to_rnn.py", "--dry_run", "--config.guide.heads=5"], "5 heads"),
    ],
)
def test_the_launcher_exits_with_2_and_one_line(arguments, word):
    done = launch(*arguments)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and word in lines[-1] and "Traceback" not in done.stderr


def test_a_dry_run_prints_the_plan():
    done = launch("--config=configs/gpt2_to_rnn.py:smoke", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "[converted]" in done.stdout and "parameters" in done.stdout


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_loses_nothing(texts, tmp_path, monkeypatch):
    import builtins

    real, path = builtins.open, tmp_path / "e"

    def full(file, mode="r", *rest, **named):
        if (
            str(file).endswith("metrics.jsonl")
            and "a" in mode
            and len(rows(path) if (path / "metrics.jsonl").exists() else []) > 3
        ):
            raise OSError(28, "No space left on device")
        return real(file, mode, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", full)
        with pytest.raises(UserError, match="No space left on device"):
            tj.run(tiny(texts, controls__names=()), path)
    assert [model["name"] for model in tj.run(tiny(texts, controls__names=()), path)["models"]] == [
        "guide",
        "converted",
    ]


class Scores:
    """A task whose models are judged by their loss."""

    @staticmethod
    def value(scores):
        return scores["loss"]


def test_speed_is_of_one_seed_and_knows_the_peak_of_listed_devices_only(monkeypatch):
    found = [
        {
            "kind": "train",
            "phase": "t",
            "step": step,
            "model": "a",
            "seed": seed,
            "training_flops": 30.0,
            "seconds": 2.0,
        }
        for seed in (0, 1)
        for step in (2, 4)
    ]
    found += [
        {"kind": "stored", "model": "a", "training_flops": 20.0, "seconds": 1.0},
        {
            "kind": "train",
            "phase": "t",
            "step": 2,
            "model": "b",
            "seed": 0,
            "training_flops": 1e9,
            "seconds": 1e9,
        },
        {"kind": "phase", "model": "a", "optimizer_steps": 5, "examples_seen": 40},
        *(
            {"kind": "model", "model": "a", "seed": seed, "test_loss": 1.0, "validation_loss": 1.0}
            for seed in (0, 1)
        ),
    ]
    made = record(Arm("a", None), found, Scores, (0, 1), None, None)
    assert (made["seconds"], made["training_flops"], made["examples_per_second"], made["mfu"]) == (
        5.0,
        80.0,
        8.0,
        None,
    )
    monkeypatch.setattr(cost, "peak_flops", lambda kind: 64.0)
    assert record(Arm("a", None), found, Scores, (0, 1), None, None)["mfu"] == 0.25
    monkeypatch.undo()
    assert (
        cost.peak_flops("NVIDIA H200")
        == cost.peak_flops("NVIDIA H100 80GB HBM3")
        > cost.peak_flops("NVIDIA H100 PCIe")
    )
    assert (
        cost.peak_flops("NVIDIA L40S") > cost.peak_flops("NVIDIA L4")
        and cost.peak_flops("NVIDIA A100-SXM4-80GB") == 156e12
    )
    assert cost.peak_flops("NVIDIA RTX A1000") is None and cost.peak_flops("cpu") is None


def test_claims_are_decided_by_the_t_interval_of_paired_seeds():
    def model(name, losses, flops):
        return {
            "name": name,
            "role": ROLES.get(name, "rival"),
            "prolongs": "one_shot" if name == "one_shot_equal_flops" else "",
            "loss": float(np.mean(losses)),
            "losses": losses,
            "training_flops": flops,
            "state_bytes": {"8192": 10 if name == "guide" else 1},
        }

    ours = [2.00, 2.10, 2.20]  # spread over seeds that the rivals share
    got = claims(
        [
            model("guide", [1.0], 1),
            model("converted", ours, 2),
            model("one_shot", [2.1, 2.1, 2.1], 1),
            model("one_shot_equal_flops", [2.11, 2.20, 2.31], 2),
            model("distilled", [1.90, 2.0, 2.11], 4),
        ],
        LOSS,
    )
    verdicts = {claim["text"]: claim["verdict"] for claim in got}
    assert all(claim["holds"] == (claim["verdict"] == "holds") for claim in got)
    # 0.0 +- 0.25
    assert verdicts["converted beats one_shot at equal optimizer steps"] == "undecided"
    # 0.107 +- 0.014, against the longer run
    assert verdicts["converted beats one_shot at equal training FLOPs"] == "holds"
    # -0.097 +- 0.014
    assert verdicts["converted beats distilled at equal optimizer steps"] == "fails"
    half = stats.t.ppf(0.975, 2) * np.std([0.11, 0.10, 0.11], ddof=1) / 3**0.5
    assert f"+0.1067 +- {half:.4f} (95 % over 3 paired seeds)" in next(
        c["measured"] for c in got if "equal training" in c["text"]
    )
    assert "had 2.00 x" in next(
        c["measured"] for c in got if c["text"].endswith("distilled at equal training FLOPs")
    )


def test_a_share_of_the_gap_is_claimed_only_where_there_is_a_gap():
    def model(name, accuracy):
        return {
            "name": name,
            "role": ROLES.get(name, "rival"),
            "value": accuracy,
            "stderr": 0.0,
            "seeds": [accuracy - 0.001, accuracy + 0.001],
            "training_flops": 1,
        }

    rows = [model("guide", 0.9), model("converted", 0.86), model("from_scratch", 0.8)]
    assert claims(rows, ACCURACY)[-1]["holds"] and claims(rows, ACCURACY)[-1][
        "measured"
    ].startswith("60.0%")
    assert not claims([rows[0], model("converted", 0.84), rows[2]], ACCURACY)[-1]["holds"]
    assert all(
        "gap" not in claim["text"] for claim in claims([model("guide", 0.7), *rows[1:]], ACCURACY)
    )
    single = claims([{**row, "seeds": row["seeds"][:1]} for row in rows], ACCURACY)
    assert [claim["verdict"] for claim in single] == ["undecided"] * 3 and not any(
        claim["holds"] for claim in single
    )
    assert all(
        claim["measured"].endswith("; one seed decides nothing")
        for claim in single
        if "FLOPs" not in claim["text"]
    )
