"""report: numbers in the tables against the files they came from, pages that stand alone, every refusal."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from theseus_jax import report
from theseus_jax.errors import UserError
from theseus_jax.report import curves, figures, tables, units

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = 'x = "</pre><script>alert(1)</script>&amp; $x_1$ \x00\ud800'
VOID = {"meta", "br", "img", "link", "hr", "input"}
ARMS = ("from_scratch", "distilled", "one_shot", "one_shot_distilled", "one_shot_distilled_equal_flops")
FINAL = {
    "guide": 3.1,
    "converted": 3.62,
    "from_scratch": 4.1,
    "distilled": 3.95,
    "one_shot": 3.7,
    "one_shot_distilled": 3.6,
    "one_shot_distilled_equal_flops": 3.59,
}


def config(**convert):
    return {
        "task": "language_model",
        "seed": 0,
        "seeds": 3,
        "data": {"source": "stdlib", "share": 0.1},
        "guide": {"origin": "trained", "width": 128, "depth": 4, "heads": 4},
        "target": {"cell": "linear", "block": "residual", "width": 128, "depth": 4},
        "convert": {"schedule": "sequential", "steps": 400, "inherit": ["embed", "head"], **convert},
    }


def train_rows(model, phase, seed, steps, terms, flops, begin, end):
    """Rows every 25 steps; each term falls from `begin` to `end`, seeds 0.01 apart."""
    rows = []
    for step in range(25, steps + 1, 25):
        value = end + (begin - end) * math.exp(-4 * step / steps) + 0.01 * seed
        rows.append(
            {
                "kind": "train",
                "model": model,
                "phase": phase,
                "seed": seed,
                "step": step,
                "loss": value,
                **{term: value for term in terms},
                "gradient_norm": 0.8,
                "training_flops": flops * 25,
                "seconds": 0.25,
            }
        )
    return rows


def run_rows(seeds, stages=4, guide_steps=3000):
    rows = train_rows("guide", "finetune", 0, guide_steps, ["cross_entropy"], 9e9, 6.9, 3.0)
    for s in range(stages):
        for seed in range(seeds):
            rows += train_rows(
                "converted", f"align_{s + 1}", seed, 50, ["distance"], 5e9, 0.7 - 0.1 * s, 0.1 + 0.03 * s
            )
        rows.append(
            {
                "kind": "phase",
                "model": "converted",
                "phase": f"align_{s + 1}",
                "optimizer_steps": 50,
                "examples_seen": 400,
            }
        )
        rows += [
            {
                "kind": "stage",
                "model": "converted",
                "phase": f"align_{s + 1}",
                "stage": f"block_{s + 1}",
                "guide_stage": f"block_{s + 1}",
                "seed": seed,
                "optimizer_steps": 50,
                "similarity_cka_debiased": 0.95 - 0.05 * s,
                "similarity_mutual_knn": 0.5 - 0.05 * s,
                "hybrid_loss": 3.2 + 0.1 * s + 0.01 * seed,
                "hybrid_raw_loss": 3.4 + 0.3 * s + 0.02 * seed,
            }
            for seed in range(seeds)
        ]
    for name in ("converted", *ARMS):
        steps = 200 if name == "converted" and stages else 500 if name.endswith("equal_flops") else 400
        for seed in range(seeds):
            begin = 4.6 if name == "converted" else 6.9
            rows += train_rows(
                name, "finetune", seed, steps, ["cross_entropy"], 8e9, begin, FINAL[name] - 0.1
            )
    for name, loss in FINAL.items():
        rows += [
            {
                "kind": "model",
                "model": name,
                "seed": seed,
                "validation_loss": loss - 0.05,
                "test_loss": loss + 0.02 * seed,
            }
            for seed in range(1 if name == "guide" else seeds)
        ]
    return rows


def spread(values):
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)) if len(
        values
    ) > 1 else 0.0


def model_record(name, rows):
    losses = [row["test_loss"] for row in rows if row["kind"] == "model" and row["model"] == name]
    train = [row for row in rows if row["kind"] == "train" and row["model"] == name and row["seed"] == 0]
    values = [math.exp(loss) for loss in losses]
    loss, loss_error = spread(losses)
    value, error = spread(values)
    guide = name == "guide"
    return {
        "name": name,
        "value": value,
        "stderr": error,
        "seeds": values,
        "loss": loss,
        "loss_stderr": loss_error,
        "losses": losses,
        "bits_per_byte": loss / math.log(2) / 2.5,
        "validation_loss": loss - 0.05,
        "parameters": 938000 if guide else 1010000,
        "flops_per_example": 2.4e8 if guide else 2.6e8,
        "latency_us": 5300.0 if guide else 4100.0,
        "latency_iqr_us": 400.0,
        "token_latency_us": 910.0 if guide else 450.0,
        "token_latency_iqr_us": 60.0,
        "state_bytes": {str(n): 4096 * n if guide else 65536 for n in (128, 1024, 8192)},
        "optimizer_steps": 25 * len(train),
        "examples_seen": 200 * len(train),
        "training_flops": sum(row["training_flops"] for row in train),
        "seconds": sum(row["seconds"] for row in train),
    }


def run_results(rows):
    models = [model_record(name, rows) for name in ("from_scratch", "guide", *ARMS[1:], "converted")]
    found = []
    for name in dict.fromkeys(row["stage"] for row in rows if row["kind"] == "stage"):
        mine = [row for row in rows if row.get("stage") == name]
        mean = {
            key: statistics.fmean(row[key] for row in mine)
            for key in ("similarity_cka_debiased", "similarity_mutual_knn", "hybrid_loss", "hybrid_raw_loss")
        }
        value, error = spread([math.exp(row["hybrid_loss"]) for row in mine])
        found.append(
            {
                "stage": name,
                "guide_stage": name,
                "similarity": {
                    "cka_debiased": mean["similarity_cka_debiased"],
                    "mutual_knn": mean["similarity_mutual_knn"],
                },
                "hybrid_value": value,
                "hybrid_stderr": error,
                "hybrid_loss": mean["hybrid_loss"],
                "hybrid_raw_loss": mean["hybrid_raw_loss"],
                "optimizer_steps": 50,
            }
        )
    claims = [
        {
            "text": "converted beats from_scratch at equal optimizer steps",
            "holds": True,
            "measured": "3.6400 against 4.1200 nats per token: +0.4800 with a standard error of 0.0163",
        },
        {
            "text": "converted beats one_shot_distilled at equal optimizer steps",
            "holds": False,
            "measured": "3.6400 against 3.6200 nats per token: -0.0200 with a standard error of 0.0163",
        },
        {
            "text": "converted carries less state than the guide at 8192 tokens of context",
            "holds": True,
            "measured": "65,536 bytes against 33,554,432",
        },
    ]
    return {
        "schema": 1,
        "task": "language_model",
        "metric": "perplexity",
        "higher_is_better": False,
        "chance": 1024.0,
        "data": {
            "name": "stdlib",
            "sha256": "ab" * 32,
            "python": "3.11.2",
            "tokenizer": "bpe",
            "vocabulary": 1024,
            "bytes": {"train": 10000000, "test": 320000},
            "share": 0.1,
            "train_examples": 3000,
            "eval_examples": 1000,
        },
        "models": models,
        "stages": found,
        "claims": claims,
        "device": "cpu",
        "seconds_total": 312.0,
        "samples": [
            {"model": "guide", "prompt": "def ", "text": "main(self):\n    return self.value\n"},
            {
                "model": "converted",
                "prompt": "def ",
                "text": "run(args):\n    for key in args:\n        yield key\n",
            },
        ],
    }


def make_run(path, *, seeds=3, stages=4, guide_steps=3000, edit=lambda results: None, settings=None):
    """A workdir as a finished run leaves it, the same every time; `edit` changes results.json first."""
    path.mkdir(parents=True)
    rows = run_rows(seeds, stages, guide_steps)
    results = run_results(rows)
    edit(results)
    (path / "config.json").write_text(json.dumps(settings or config()))
    (path / "plan.txt").write_text("1. align_1: 50 steps\n   loss     1 distance <b>\n")
    (path / "versions.json").write_text(json.dumps({"python": "3.11.2", "jax": "0.10.2"}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "results.json").write_text(json.dumps(results))
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "stdlib_linear")


@pytest.fixture(scope="module")
def run(workdir):
    return report.read_run(workdir)


class Page(HTMLParser):
    """Tags balanced, text collected (less style sheets), every address and tag name noted."""

    def __init__(self, document):
        super().__init__()
        self.open, self.addresses, self.tags, self.words, self.cells = [], [], set(), [], []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [
            value
            for name, value in attrs
            if name in ("src", "href", "xlink:href", "action", "data", "srcset")
        ]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag == "tr":
            self.cells.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1].append(data)

    @property
    def text(self):
        return "".join(self.words)


def row(text, name):
    """The cells of the first table line that begins with `name`."""
    line = next(line for line in text.splitlines() if re.match(rf"{re.escape(name)}(\s|$)", line))
    return re.split(r"\s{2,}", line.strip())


def refusal(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_table_has_the_right_numbers(run):
    text = report.table(run.results)
    values = [math.exp(loss) for loss in (3.62, 3.64, 3.66)]
    error = math.sqrt(sum((value - sum(values) / 3) ** 2 for value in values) / 2 / 3)
    assert row(text, "converted") == [
        "converted",
        f"{sum(values) / 3:.2f} +- {error:.2f}",
        "3.640",
        "2.101",
        "400",
        "2.60 T",
        "4.0",
        "1.01 M",
    ]
    assert row(text, "guide") == [
        "guide",
        "22.20 one seed",
        "3.100",
        "1.789",
        "3000",
        "27.0 T",
        "30.0",
        "938 k",
    ]
    assert row(text, "one_shot_distilled_equal_flops")[4:6] == ["500", "4.00 T"]
    assert "converted recovers 47.1% of the loss" in text  # (4.12 - 3.64) / (4.12 - 3.10)


def test_table_has_costs_and_stages(run):
    costs, stages = report.table(run.results).split("Costs of use")[1].split("Stages:")
    assert row(costs, "guide") == [
        "guide",
        "938 k",
        "240 M",
        "5.30 ms",
        "910 us",
        "512 KiB",
        "4 MiB",
        "32 MiB",
    ]
    assert row(costs, "converted")[3:] == ["4.10 ms", "450 us", "64 KiB", "64 KiB", "64 KiB"]
    value = sum(math.exp(loss) for loss in (3.4, 3.41, 3.42)) / 3
    expected = ["block_3", "0.850", "0.400", "4.020", f"{math.exp(4.02):.2f}", "3.410"]
    assert row(stages, "block_3")[:6] == expected
    assert row(stages, "block_3")[6].startswith(f"{value:.2f} +- ") and row(stages, "block_3")[7] == "50"


def test_table_orders_models_and_fits_the_terminal(run):
    text = report.table(run.results)
    names = [
        line.split()[0] for line in text.split("Costs")[0].splitlines()[3:] if line and "recovers" not in line
    ]
    assert names == ["guide", "converted", *ARMS]
    assert max(map(len, text.splitlines())) <= 100 and text.isascii()


def test_failed_claims_are_shown(run, document):
    lines = report.table(run.results).splitlines()
    at = lines.index("FAILS  converted beats one_shot_distilled at equal optimizer steps")
    assert "3.6400 against 3.6200" in lines[at + 1]
    assert "holds  converted beats from_scratch at equal optimizer steps" in lines
    text = Page(document).text
    assert "2 of 3 claims hold." in text and text.count("✗ FAILS") == 1 and text.count("✓ holds") == 2
    assert (
        text.index("✗ FAILS") < text.index("✓ holds") < text.index("Results")
        and "3.6400 against 3.6200" in text
    )


@pytest.mark.parametrize("holds", [None, "yes", 1, False])
def test_only_true_holds(holds):
    assert tables.claim_lines([{"text": "x", "holds": holds, "measured": "y"}])[0] == "FAILS  x"


def test_a_smoke_run_says_that_its_numbers_mean_nothing(run, document):
    smoke = run._replace(results=run.results | {"smoke": True})
    page = Page(report.html(smoke)).text
    assert page.count("its numbers and verdicts mean nothing") == 1 and page.index("mean nothing") < page.index("claims hold")
    assert report.table(smoke.results).startswith("SMOKE RUN: ")
    assert "SMOKE" not in Page(document).text and "SMOKE" not in report.table(run.results)


def test_what_is_not_decided_neither_holds_nor_fails(run):
    claims = [{"text": text, "holds": text == "a", "verdict": verdict, "measured": "y"}
              for text, verdict in (("a", "holds"), ("b", "undecided"), ("c", "fails"), ("d", "undecided"))]
    assert [line for line in tables.claim_lines(claims) if "y" not in line] == [
        "holds  a", "undecided  b", "FAILS  c", "undecided  d"]
    text = Page(report.html(run._replace(results=run.results | {"claims": claims}))).text
    assert "1 of 4 claims hold. 2 are undecided." in text
    assert text.index("✗ FAILS") < text.index("? undecided") < text.index("✓ holds")


def test_page_stands_alone(document):
    page = Page(document)
    assert all(address.startswith("#") for address in page.addresses) and page.addresses
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert "http" not in document and "@import" not in document and "currentColor" in document
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", document))
    assert document.count("<svg") == 4


def test_page_says_what_was_found(document):
    page = Page(document)
    for words in (
        "linear, residual, depth 4, width 128, 1.01 M parameters",
        "by the sequential schedule in 400 optimizer",
        "on 10% of the training data of stdlib",
        "converted 38.10 ± 0.44, guide 22.20 (one seed)",
        "recovers 47% of the loss",
        "ab" * 32,
        "1 distance <b>",
        "0.10.2",
        '"schedule": "sequential"',
        "yield key",
    ):
        assert words in page.text, words
    ours = next(cells for cells in page.cells if cells[:1] == ["converted"])
    assert ours[-1] == " ".join(f"{math.exp(loss):.2f}" for loss in (3.62, 3.64, 3.66))
    assert ["guide", "938 k", "240 M", "5.30 ms", "910 µs", "512 KiB", "4 MiB", "32 MiB"] in page.cells


def test_curves_begin_after_the_alignment_and_end_where_training_did(run):
    points = curves.task_curve(run.rows, "converted")
    assert [point.step for point in points] == list(range(225, 401, 25))
    assert points[0].flops == pytest.approx(200 * 5e9 + 25 * 8e9) and points[-1].flops == pytest.approx(
        2.6e12
    )
    first = 3.52 + (4.6 - 3.52) * math.exp(-4 * 25 / 200) + 0.01
    assert points[0].value == pytest.approx(first)
    assert curves.extent(run.rows, "converted") == (400, pytest.approx(2.6e12))
    aligned = curves.distance_curves(run.rows)
    assert {name: [p.step for p in ps] for name, ps in aligned.items()} == {
        f"block_{s + 1}": [50 * s + 25, 50 * s + 50] for s in range(4)
    }
    for model in run.results["models"]:
        assert curves.extent(run.rows, model["name"]) == (
            model["optimizer_steps"],
            pytest.approx(model["training_flops"]),
        )


def test_curves_leave_out_mixed_networks_and_count_a_repeated_step_once():
    base = {"kind": "train", "model": "converted", "seed": 0, "loss": 1.0, "training_flops": 10.0}
    rows = [
        {**base, "phase": "align", "step": 5, "distance": 0.3, "cross_entropy": 9.0},
        {**base, "phase": "swap", "step": 5, "cross_entropy": 8.0},
        {**base, "phase": "finetune", "step": 5, "cross_entropy": 7.0},
        {**base, "phase": "finetune", "step": 5, "cross_entropy": 5.0},
        {**base, "phase": "finetune", "step": 10, "cross_entropy": float("nan")},
    ]
    assert curves.task_curve(rows, "converted") == [curves.Point("finetune", 15, 30.0, 5.0)]
    assert curves.extent(rows, "converted") == (20, 40.0)
    many = [curves.Point("p", i, float(i), float(i)) for i in range(1000)]
    few = curves.thinned(many)
    assert len(few) == 250 and few[-1] == curves.Point("p", 999, 999.0, 997.5) and curves.thinned([]) == []


def test_training_picture(run, figure_of):
    by_steps, by_flops = figures.training(run).axes
    lines = {line.get_label(): line for line in by_flops.lines if not line.get_label().startswith("_")}
    assert set(lines) == set(FINAL)
    assert lines["converted"].get_xdata()[-1] == pytest.approx(2.6e12)
    ends = {
        (float(line.get_xdata()[0]), round(float(line.get_ydata()[0]), 6))
        for line in by_steps.lines
        if line.get_marker() == "D"
    }
    assert {(400.0, 3.64), (3000.0, 3.1), (500.0, 3.61)} <= ends
    low, high = by_steps.patches[0].get_extents().transformed(by_steps.transData.inverted()).intervalx
    assert (low, high) == (pytest.approx(0), pytest.approx(200))
    assert 500 < by_steps.get_xlim()[1] < 600 and by_steps.get_ylim()[0] < 3.1


def test_hybrid_and_cost_pictures(run, figure_of):
    (axes,) = figures.hybrids(run).axes
    dots = {line.get_color(): sorted(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"}
    stitched = sorted(3.2 + 0.1 * s + 0.01 * seed for s in range(4) for seed in range(3))
    raw = sorted(3.4 + 0.3 * s + 0.02 * seed for s in range(4) for seed in range(3))
    assert sorted(dots.values()) == [pytest.approx(stitched), pytest.approx(raw)]
    level = {line.get_label(): line.get_ydata()[0] for line in axes.lines if "(test)" in line.get_label()}
    assert level == {"guide (test)": pytest.approx(3.1), "from_scratch (test)": pytest.approx(4.12)}
    state, full, token = figures.costs(run).axes
    assert (state.get_xscale(), state.get_yscale()) == ("log", "log")
    assert list(state.lines[0].get_ydata()) == [4096 * n for n in (128, 1024, 8192)]
    assert [bar.get_height() for bar in full.patches] == [5300.0, 4100.0]
    assert [bar.get_height() for bar in token.patches] == [910.0, 450.0]


def hostile(results):
    results["samples"] = [{"model": "<i>m</i>", "prompt": "<b>", "text": HOSTILE}]
    results["claims"][0]["text"] = results["data"]["name"] = results["task"] = "<script>bad()</script>"
    for model in results["models"]:
        model["name"] = "<u>$d$" if model["name"] == "distilled" else model["name"]


def test_hostile_text_is_escaped(tmp_path):
    path = make_run(tmp_path / "<em>", edit=hostile, settings=config(schedule="<s>"))
    rows = (
        (path / "metrics.jsonl").read_text().replace('"distilled"', '"<u>$d$"').replace('"block_1"', '"<q>&"')
    )
    (path / "metrics.jsonl").write_text(rows)
    written = report.write(path).read_bytes()
    page = Page(written.decode("utf8"))
    assert not page.tags & {"script", "i", "b", "u", "q", "s", "em"}
    assert HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd") in page.text
    assert "<script>bad()</script>" in page.text and "up to <q>&" in page.text
    assert page.words.count("<u>$d$") >= 3  # two tables and a legend
    assert b"\x00" not in written


def test_one_seed_and_no_stages(tmp_path):
    path = make_run(tmp_path / "run", seeds=1, stages=0, guide_steps=0, settings=config(schedule="one_shot"))
    run = report.read_run(path)
    text = report.table(run.results)
    assert row(text, "converted")[1] == "37.34 one seed" and "+-" not in text and "Stages" not in text
    assert row(text, "guide")[4:7] == ["0", "0", "0.0"]
    page = Page(report.html(run))
    assert (
        "37.34 (one seed)" in page.text
        and "No stage was measured" in page.text
        and "±" not in "".join(page.cells[1])
    )
    assert [point.step for point in curves.task_curve(run.rows, "converted")][:1] == [25]
    assert figures.distances(run) is None and figures.hybrids(run) is None


def as_accuracy(results):
    results.update(metric="accuracy", higher_is_better=True, chance=0.1, task="images")
    for model in results["models"]:
        model.pop("bits_per_byte")
        model.update(value=0.9 - 0.1 * model["loss"], stderr=0.00021, seeds=[0.5, 0.5])
    for stage in results["stages"]:
        stage.update(hybrid_value=0.61, hybrid_stderr=None)


def test_accuracy_runs(tmp_path):
    run = report.read_run(make_run(tmp_path / "run", edit=as_accuracy))
    text = report.table(run.results)
    assert (
        "accuracy, higher is better; loss in nats;" in text
        and "perplexity" not in text
        and "bits/byte" not in text
    )
    assert row(text, "converted")[1] == "0.5360 +- 0.0002" and "ppl" not in text
    assert row(text, "block_2") == ["block_2", "0.900", "0.450", "3.720", "3.310", "0.6100", "50"]
    assert "accuracy, higher is better · chance 0.10" in Page(report.html(run)).text


def bare(results):
    for key in ("stages", "claims", "samples", "data", "chance", "device", "seconds_total", "task"):
        results.pop(key)
    results["models"] = [
        {"name": "converted", "value": float("nan"), "stderr": None, "loss": float("nan")},
        {"name": "mine", "value": None, "seeds": None, "state_bytes": None, "latency_us": float("inf")},
        {"name": "guide", "value": 9.5},
    ]


def test_missing_and_unmeasured_values(tmp_path):
    path = make_run(tmp_path / "run", edit=bare, settings={"guide": 3})
    run = report.read_run(path)
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    text = report.table(run.results)
    assert row(text, "guide") == ["guide", "9.50 one seed", "-"] and row(text, "converted") == [
        "converted",
        "nan",
        "nan",
    ]
    assert (
        row(text, "mine")[1] == "-"
        and row(text.split("Costs")[1], "mine")[2] == "inf"
        and text.endswith("none stated")
    )
    for candidate in (run, report.read_run(path)):
        page = Page(report.html(candidate))
        assert (
            "This run states no claims." in page.text and "No gap between from_scratch and guide" in page.text
        )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("key", ["training_flops", "seed", "guide_stage", "hybrid_raw_loss", "gradient_norm"])
def test_rows_without_a_key(run, key):
    rows = [{name: value for name, value in row.items() if name != key} for row in run.rows]
    assert Page(report.html(run._replace(rows=rows))).tags >= {"svg", "table"}


@pytest.mark.parametrize(
    "guide, ours, scratch, gap",
    [
        (3.0, 3.5, 4.0, 0.5),
        (3.0, 2.9, 4.0, 1.1),
        (3.0, 4.2, 4.0, -0.2),
        (4.0, 3.5, 4.0, None),
        (None, 3.5, 4.0, None),
        (float("nan"), 3.5, 4.0, None),
    ],
)
def test_gap_recovered(guide, ours, scratch, gap):
    models = [
        {"name": name, "value": 1.0, "loss": loss}
        for name, loss in (("guide", guide), ("converted", ours), ("from_scratch", scratch))
    ]
    results = {"metric": "perplexity", "models": models}
    assert tables.gap_recovered(results) == (None if gap is None else pytest.approx(gap))
    words = {None: "No gap", -0.2: "worse than training from scratch by 20%"}.get(gap, "recovers")
    assert words in report.page.summary(report.Run({}, "", {}, [], results))


@pytest.mark.parametrize(
    "call, expected",
    [
        (lambda: units.human(1234567), "1.23 M"),
        (lambda: units.human(999999), "1.00 M"),
        (lambda: units.human(0), "0"),
        (lambda: units.human(999), "999"),
        (lambda: units.human(2.6e12), "2.60 T"),
        (lambda: units.human(None), "-"),
        (lambda: units.human(float("inf")), "inf"),
        (lambda: units.size(1023), "1023 B"),
        (lambda: units.size(1536), "1.50 KiB"),
        (lambda: units.size(2**20), "1 MiB"),
        (lambda: units.duration(0.5), "0.50 us"),
        (lambda: units.duration(2.5e6), "2.50 s"),
        (lambda: units.number(1234.567), "1234.6"),
        (lambda: units.number(3000, 0), "3000"),
        (lambda: units.number(float("nan")), "nan"),
        (lambda: units.spread(12.345, 0.0004, 3), "12.3450 +- 0.0004"),
        (lambda: units.spread(12.345, 0.05, 3), "12.35 +- 0.05"),
        (lambda: units.spread(12.345, 0.0, 3), "12.35 +- 0.00"),
        (lambda: units.spread(12.345, None, 1), "12.35 one seed"),
    ],
)
def test_units(call, expected):
    assert call() == expected


def test_write_is_quick_and_without_leftovers(workdir):
    began = time.monotonic()
    path = report.write(workdir)
    assert time.monotonic() - began < 5
    assert path == workdir / "report.html" and path.read_text(encoding="utf8").startswith("<!DOCTYPE html>")
    assert sorted(p.name for p in workdir.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "plan.txt",
        "report.html",
        "results.json",
        "versions.json",
    ]


def test_page_without_matplotlib(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    page = Page(report.html(run))
    assert "svg" not in page.tags and "matplotlib is not installed" in page.text and "✗ FAILS" in page.text


def test_users_own_matplotlib_settings_change_nothing(run):
    import matplotlib

    plain = figures.hybrids(run)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}):
        assert figures.hybrids(run) == plain
    assert figures.hybrids(run) == plain


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("results.json", None, "unfinished"),
        ("config.json", None, "no config.json"),
        ("plan.txt", None, "plan.txt cannot be read"),
        ("metrics.jsonl", '{"kind": "train"}\n{"kind": ', "line 2 of "),
        ("results.json", "{", "results.json is damaged"),
        ("results.json", "[]", "found list"),
        ("results.json", '{"schema": 2}', "has schema 2"),
        ("results.json", '{"schema": 1, "metric": "loss", "models": [{}]}', "list of named models"),
        ("versions.json", "nothing", "versions.json is damaged"),
    ],
)
def test_runs_that_cannot_be_shown_are_refused(tmp_path, name, content, words):
    path = make_run(tmp_path / "run", seeds=1, guide_steps=25)
    (path / name).unlink() if content is None else (path / name).write_text(content)
    message = refusal(lambda: report.read_run(path))
    assert words in message and str(path) in message and ";" in message
    assert str(path) in refusal(lambda: report.write(path))


def test_a_missing_folder_is_refused(tmp_path):
    assert "there is no folder" in refusal(lambda: report.read_run(tmp_path / "nowhere"))


@pytest.fixture()
def pair(tmp_path):
    return (
        make_run(tmp_path / "a", seeds=2, guide_steps=100),
        make_run(tmp_path / "b", seeds=2, guide_steps=100, settings=config(schedule="joint", extra=1)),
    )


def test_compare_shows_scores_and_what_differs(pair):
    text = report.compare(pair)
    assert [line.split()[:2] for line in text.splitlines()[3:17]] == [
        [run, name] for run in "ab" for name in ("guide", "converted", *ARMS)
    ]
    ours = next(line for line in text.splitlines() if line.startswith("b") and " converted " in line)
    gap = (4.11 - 3.63) / (4.11 - 3.1)
    assert re.split(r"\s{2,}", ours)[3:] == [
        "3.630",
        f"{gap:.1%}",
        f"{3.63 / math.log(2) / 2.5:.3f}",
        "400",
        "2.60 T",
        "1.01 M",
    ]
    assert "The configs differ in 2 keys" in text
    assert row(text, "convert.schedule") == ["convert.schedule", "sequential", "joint"]
    assert row(text, "convert.extra") == ["convert.extra", "-", "1"] and "convert.steps" not in text
    assert "The configs are equal." in report.compare(pair[:1])


def test_compare_puts_runs_in_rows_where_they_are_more_than_keys(pair, tmp_path):
    third = make_run(tmp_path / "deep" / "a", seeds=1, guide_steps=25, settings=config(schedule="joint"))
    text = report.compare([pair[0], third])
    assert row(text, "run")[:2] == ["run", "model"] and "differ in 1 key" in text
    last = text.splitlines()[-4:]
    assert [line.split() for line in last] == [
        ["run", "convert.schedule"],
        ["-" * len(str(third)), "-" * 16],
        [str(pair[0]), "sequential"],
        [str(third), "joint"],
    ]


@pytest.mark.parametrize(
    "key, edit",
    [
        ("task", lambda results: results.update(task="other")),
        ("metric", lambda results: results.update(metric="accuracy")),
        ("data.sha256", lambda results: results["data"].update(sha256="cd" * 32)),
        ("data.tokenizer", lambda results: results["data"].update(tokenizer="bytes")),
        ("data.bytes.test", lambda results: results["data"]["bytes"].update(test=1)),
    ],
)
def test_compare_refuses_what_is_not_comparable(tmp_path, key, edit):
    runs = [
        make_run(tmp_path / "a", seeds=1, guide_steps=25),
        make_run(tmp_path / "b", seeds=1, guide_steps=25, edit=edit),
    ]
    assert f"{key} is " in refusal(lambda: report.compare(runs)) and "--anyway" in refusal(
        lambda: report.compare(runs)
    )
    refusal(lambda: report.compare_html(runs, tmp_path / "c.html"))
    assert not (tmp_path / "c.html").exists()
    assert report.compare(runs, anyway=True).startswith(f"Not comparable: {key} is ")
    report.compare_html(runs, tmp_path / "c.html", anyway=True)
    page = Page((tmp_path / "c.html").read_text())
    assert "✗ FAILS" in page.text and f"{key} is " in page.text


def test_compare_html(pair, tmp_path):
    page = Page(report.compare_html(pair, tmp_path / "c.html").read_text(encoding="utf8"))
    assert ["convert.schedule", "sequential", "joint"] in page.cells and page.addresses == []
    assert sum(cells[:2] == ["b", "converted"] for cells in page.cells) == 1 and "FAILS" not in page.text
    assert "cannot be written" in refusal(lambda: report.compare_html(pair, tmp_path / "no" / "c.html"))


def test_compare_refuses_repeats_and_nothing(pair):
    assert "given twice" in refusal(lambda: report.compare([pair[0], pair[0] / ".." / "a"]))
    assert "no run is given" in refusal(lambda: report.compare([]))


def launcher():
    spec = importlib.util.spec_from_file_location("launch_compare", ROOT / "launch" / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_launcher(pair, tmp_path, capsys):
    assert launcher().main([*map(str, pair), f"--html={tmp_path / 'c.html'}"]) == 0
    assert "convert.schedule" in capsys.readouterr().out and (tmp_path / "c.html").exists()
    assert launcher().main([str(tmp_path / "no")]) == 2
    shown = capsys.readouterr()
    assert (
        shown.out == "" and shown.err.startswith("error: there is no folder") and shown.err.count("\n") == 1
    )


@pytest.mark.parametrize("arguments", [[], ["run", "--htm=x"], ["nowhere"]])
def test_launcher_from_a_fresh_clone_ends_with_2_and_one_line(tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "launch" / "compare.py", *arguments],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (
        done.stderr
    )


def test_report_imports_nothing_above_it():
    for path in sorted((ROOT / "theseus_jax" / "report").glob("*.py")):
        tree = ast.parse(path.read_text())
        modules = {
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        ours = {name for name in modules if name.startswith("theseus_jax")}
        assert all(name in ("theseus_jax.errors", "theseus_jax.judging") or name.startswith("theseus_jax.report") for name in ours), (
            path
        )
        top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        top |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert {name.split(".")[0] for name in top - ours} <= set(sys.stdlib_module_names), path
        assert not {name.split(".")[0] for name in modules} & {"jax", "flax", "numpy"}, path
