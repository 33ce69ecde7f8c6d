"""report: numbers against the files they came from, pages that stand alone, every refusal."""

from __future__ import annotations

import ast
import copy
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
from theseus_jax.judging import judge
from theseus_jax.report import read, series, standing, units
from theseus_jax.report.panels import costs, lead, seams, training

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = 'x = "</pre><script>alert(1)</script>&amp; $x_1$ \x00\ud800'
VOID = {"meta", "br", "img", "link", "hr", "input"}
ARMS = tuple("from_scratch distilled one_shot one_shot_distilled".split())
ARMS += ("one_shot_distilled_equal_flops",)
FINAL = dict(zip(("guide", "converted", *ARMS), (3.1, 3.62, 4.1, 3.95, 3.7, 3.6, 3.59)))
CONTEXTS = (128, 1024, 8192)


def config(**convert):
    convert = {"schedule": "sequential", "steps": 400, "inherit": ["embed", "head"], **convert}
    guide = {"origin": "trained", "width": 128, "depth": 4, "heads": 4}
    target = {"cell": "linear", "block": "residual", "width": 128, "depth": 4}
    data = {"source": "stdlib", "share": 0.1}
    parts = {"data": data, "guide": guide, "target": target, "convert": convert}
    return {"task": "language_model", "seed": 0, "seeds": 3, **parts}


def train_rows(model, phase, seed, steps, terms, flops, begin, end):
    """Rows every 25 steps; each term falls from `begin` to `end`, seeds 0.01 apart."""
    rows = []
    for step in range(25, steps + 1, 25):
        value = end + (begin - end) * math.exp(-4 * step / steps) + 0.01 * seed
        row = {"kind": "train", "model": model, "phase": phase, "seed": seed, "step": step}
        logged = {"loss": value, **dict.fromkeys(terms, value), "gradient_norm": 0.8}
        rows.append(row | logged | {"training_flops": flops * 25, "seconds": 0.25})
    return rows


def stage_rows(s, seeds):
    """The rows of the phase that aligns stage s."""
    rows, phase, stage = [], f"align_{s + 1}", f"block_{s + 1}"
    tags = {"model": "converted", "phase": phase, "optimizer_steps": 50}
    for seed in range(seeds):
        ends = 0.7 - 0.1 * s, 0.1 + 0.03 * s
        rows += train_rows("converted", phase, seed, 50, ["distance"], 5e9, *ends)
    rows.append({"kind": "phase", "examples_seen": 400, **tags})
    for seed in range(seeds):
        scores = {"hybrid_loss": 3.2 + 0.1 * s + 0.01 * seed}
        scores |= {"hybrid_raw_loss": 3.4 + 0.3 * s + 0.02 * seed}
        scores |= {"similarity_cka_debiased": 0.95 - 0.05 * s}
        scores |= {"similarity_mutual_knn": 0.5 - 0.05 * s}
        names = {"stage": stage, "guide_stage": stage, "seed": seed}
        rows.append({"kind": "stage", **tags, **names, **scores})
    return rows


def run_rows(seeds, stages=4, guide_steps=3000):
    rows = train_rows("guide", "finetune", 0, guide_steps, ["cross_entropy"], 9e9, 6.9, 3.0)
    rows += [row for s in range(stages) for row in stage_rows(s, seeds)]
    for name in ("converted", *ARMS):
        steps = 200 if name == "converted" and stages else 500 if "equal_flops" in name else 400
        ends = 4.6 if name == "converted" else 6.9, FINAL[name] - 0.1
        for seed in range(seeds):
            rows += train_rows(name, "finetune", seed, steps, ["cross_entropy"], 8e9, *ends)
    for name, loss in FINAL.items():
        for seed in range(1 if name == "guide" else seeds):
            losses = {"validation_loss": loss - 0.05, "test_loss": loss + 0.02 * seed}
            rows.append({"kind": "model", "model": name, "seed": seed, **losses})
    return rows


def spread(values):
    """(mean, standard error)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.fmean(values), error


def model_record(name, rows):
    mine = [row for row in rows if row["model"] == name]
    losses = [row["test_loss"] for row in mine if row["kind"] == "model"]
    train = [row for row in mine if row["kind"] == "train" and row["seed"] == 0]
    values, guide = [math.exp(loss) for loss in losses], name == "guide"
    (loss, loss_error), (value, error) = spread(losses), spread(values)
    record = {"name": name, "value": value, "stderr": error, "seeds": values, "loss": loss}
    record |= {"loss_stderr": loss_error, "losses": losses, "validation_loss": loss - 0.05}
    record |= {"bits_per_byte": loss / math.log(2) / 2.5, "latency_iqr_us": 400.0}
    record |= {"parameters": 938000 if guide else 1010000, "token_latency_iqr_us": 60.0}
    record |= {"flops_per_example": 2.4e8 if guide else 2.6e8}
    record |= {"latency_us": 5300.0 if guide else 4100.0}
    record |= {"token_latency_us": 910.0 if guide else 450.0}
    record |= {"state_bytes": {str(n): 4096 * n if guide else 65536 for n in CONTEXTS}}
    record |= {"optimizer_steps": 25 * len(train), "examples_seen": 200 * len(train)}
    record |= {"training_flops": sum(row["training_flops"] for row in train)}
    return record | {"seconds": sum(row["seconds"] for row in train)}


def stage_record(name, rows):
    mine = [row for row in rows if row.get("stage") == name]
    keys = ("cka_debiased", "mutual_knn")
    near = {k: statistics.fmean(row[f"similarity_{k}"] for row in mine) for k in keys}
    losses = ("hybrid_loss", "hybrid_raw_loss")
    means = {key: statistics.fmean(row[key] for row in mine) for key in losses}
    value, error = spread([math.exp(row["hybrid_loss"]) for row in mine])
    names = {"stage": name, "guide_stage": name, "similarity": near, "optimizer_steps": 50}
    return {**names, "hybrid_value": value, "hybrid_stderr": error, **means}


CLAIMS = (
    ("converted beats from_scratch at equal optimizer steps", True, "3.6400 against 4.1200"),
    ("converted beats one_shot_distilled at equal optimizer steps", False, "3.6400 against 3.6200"),
    ("converted carries less state than the guide at 8192 tokens", True, "65,536 bytes"),
)


def run_results(rows):
    names = ("from_scratch", "guide", *ARMS[1:], "converted")
    stages = dict.fromkeys(row["stage"] for row in rows if row["kind"] == "stage")
    samples = (("guide", "main(self):\n    return self.value\n"), ("converted", "yield key\n"))
    data = {"name": "stdlib", "sha256": "ab" * 32, "python": "3.11.2", "tokenizer": "bpe"}
    data |= {"vocabulary": 1024, "bytes": {"train": 10000000, "test": 320000}, "share": 0.1}
    data |= {"train_examples": 3000, "eval_examples": 1000}
    results = {"schema": 1, "task": "language_model", "metric": "perplexity", "chance": 1024.0}
    return results | {
        "higher_is_better": False,
        "data": data,
        "models": [model_record(name, rows) for name in names],
        "stages": [stage_record(name, rows) for name in stages],
        "claims": [dict(zip(("text", "holds", "measured"), claim)) for claim in CLAIMS],
        "device": "cpu",
        "seconds_total": 312.0,
        "samples": [{"model": name, "prompt": "def ", "text": text} for name, text in samples],
    }


def make_run(
    path, *, seeds=3, stages=4, guide_steps=3000, edit=lambda results: None, settings=None
):
    """A workdir as a finished run leaves it; `edit` changes results.json first."""
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
    line = next(line for line in text.splitlines() if re.match(rf"{re.escape(name)}(\s\s|$)", line))
    return re.split(r"\s{2,}", line.strip())


def edited(run, edit):
    """The run with a copy of its results that `edit` changed."""
    results = copy.deepcopy(run.results)
    edit(results)
    return run._replace(results=results)


def flat(text):
    """The text on one line."""
    return " ".join(text.split())


def labelled(axes):
    """Label -> line, of what a legend names."""
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def refusal(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# the terminal


def test_scores_and_what_training_took(run):
    text = report.table(run.results)
    values = [math.exp(loss) for loss in (3.62, 3.64, 3.66)]
    value, error = spread(values)
    assert row(text, "model") == "model perplexity loss bits/byte steps FLOPs time".split()
    score = f"{value:.2f} +- {error:.2f}"
    assert row(text, "converted") == [
        "converted",
        score,
        "3.6400",
        "2.101",
        "400",
        "2.60 T",
        "4.00 s",
    ]
    assert row(text, "guide")[1:] == [
        "22.20 one seed",
        "3.1000",
        "1.789",
        "3000",
        "27.0 T",
        "30.0 s",
    ]
    assert row(text, "one_shot_distilled_equal_flops")[4:6] == ["500", "4.00 T"]
    assert text.startswith("Test results: perplexity, lower is better, chance 1024.0, cpu, 5.2 min")


def test_costs_show_each_network_once(run):
    shown = report.table(run.results).split("Cost of use")[1].split("Claims")[0]
    sizes = ["512 KiB", "4 MiB", "32 MiB"]
    assert row(shown, "guide") == ["guide", "938 k", "240 M", "5.30 ms", "910 us", *sizes]
    assert row(shown, "converted")[3:] == ["4.10 ms", "450 us", "64 KiB", "64 KiB", "64 KiB"]
    assert f"{', '.join(ARMS)}: as converted." in flat(shown) and "\ndistilled" not in shown


def test_stages(run):
    shown = report.table(run.results).split("Stages (target = guide)")[1]
    value, error = spread([math.exp(loss) for loss in (3.4, 3.41, 3.42)])
    expected = ["0.850", "0.400", f"{math.exp(4.02):.2f}", f"{value:.2f} +- {error:.2f}", "3.4100"]
    assert row(shown, "stage")[1:] == ["CKA", "kNN", "raw", "ppl", "loss", "steps"]
    assert row(shown, "block_3")[1:] == [*expected, "50"]


def test_models_are_ordered_and_fit_the_terminal(run):
    text = report.table(run.results)
    lines = text.split("Results\n")[1].split("Test perplexity, mean")[0].splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["guide", "converted", *ARMS]
    assert max(map(len, text.splitlines())) <= 100 and text.isascii()


def test_claims_are_shown_the_failed_first_on_the_page(run, document):
    lines = report.table(run.results).splitlines()
    at = lines.index("FAILS  converted beats one_shot_distilled at equal optimizer steps")
    assert "3.6400 against 3.6200" in lines[at + 1]
    assert "holds  converted beats from_scratch at equal optimizer steps" in lines
    text = Page(document).text
    assert "2 of 3 claims hold." in text and text.count("✗ FAILS") == 1
    assert text.index("✗ FAILS") < text.index("✓ holds") < text.index("Results")


@pytest.mark.parametrize(
    "claim, mark",
    [({"holds": value}, "FAILS") for value in (None, "yes", 1, False)]
    + [({"holds": True}, "holds"), ({"holds": False, "verdict": "undecided"}, "undecided")],
)
def test_a_verdict_is_that_of_the_run(run, claim, mark):
    claims = [{"text": "x", "measured": "y", **claim}]
    text = report.table(run.results | {"claims": claims})
    assert text.splitlines()[-2:] == [f"{mark}  x", "       y"]
    page = Page(report.html(run._replace(rows=[], results=run.results | {"claims": claims})))
    assert {"FAILS": "✗ FAILS", "holds": "✓ holds"}.get(mark, "? undecided") in page.text
    assert ("1 undecided." in page.text) == (mark == "undecided")


def test_a_smoke_run_says_that_its_numbers_mean_nothing(run, document):
    smoke = run._replace(rows=[], results=run.results | {"smoke": True})
    page = Page(report.html(smoke)).text
    assert page.count(units.SMOKE) == 1 and page.index(units.SMOKE) < page.index("claims hold")
    assert report.table(smoke.results).startswith("SMOKE RUN: ")
    assert "SMOKE" not in Page(document).text and "SMOKE" not in report.table(run.results)


# who is better, and how much


def test_lead(run):
    (text,) = lead.words(run)
    for words in (
        "7 models compared, with 3 seeds each, the guide with one seed, on stdlib, 3,000 training",
        (
            "The config says guide: trained, depth 4, width 128, heads 4; target: linear "
            "residual, depth 4, width 128; schedule: sequential."
        ),
        (
            "guide has 22.20 (one seed); converted has 38.10 +- 0.44;"
            " one_shot_distilled_equal_flops, the best of 5 rivals by validation loss, has 36.97 +-"
            " 0.43."
        ),
        # the same seeds, 0.03 nats apart in each of them
        (
            "differ by 0.0300 +- 0.0000 nats per token in favour of one_shot_distilled_equal_flops"
            " (95 % over 3 paired seeds): an interval without 0, so one_shot_distilled_equal_flops"
            " is better."
        ),
        "converted recovers 47.1% of the loss between from_scratch and guide.",
    ):
        assert words in text, words
    assert flat(text.split(" The config")[0]) in flat(report.table(run.results))


def two(ours, rival, metric="accuracy", higher=True, **keys):
    """Results of two models with those seeds."""
    models = [
        {"name": name, "role": role, "value": 1.0, "seeds": seeds} | keys
        for name, role, seeds in (("a", "ours", ours), ("b", "rival", rival))
    ]
    return {"metric": metric, "higher_is_better": higher, "models": models}


@pytest.mark.parametrize(
    "ours, rival, higher, words",
    [
        ([0.90, 0.91, 0.92], [0.80, 0.82, 0.81], True, "interval without 0, so a is better"),
        ([0.90, 0.91, 0.92], [0.80, 0.82, 0.81], False, "interval without 0, so b is better"),
        ([0.3, 0.3], [0.2, 0.1], True, "interval that holds 0, so these seeds do not tell"),
        (
            [0.5, 0.5],
            [0.5, 0.5],
            True,
            "0.0 +- 0.0 points (95 % over 2 paired seeds): an interval t",
        ),
        ([0.6], [0.5], True, "10.0 points in favour of a: one seed decides nothing"),
        ([0.6, None, 0.7], [0.5, 0.5, math.nan], True, "one seed decides nothing"),
    ],
)
def test_differences_follow_the_rule_of_the_claims(ours, rival, higher, words):
    results = two(ours, rival, higher=higher)
    difference = standing.difference(results)
    assert words in standing.difference_words(results, *difference)
    pairs = [a - b for a, b in zip(ours, rival) if units.measured(a) and units.measured(b)]
    assert difference[2].verdict == judge(p if higher else -p for p in pairs).verdict


def test_perplexities_are_compared_as_the_losses_that_claims_compare():
    results = two(
        [math.exp(3.0), math.exp(3.1)], [math.exp(3.2), math.exp(3.4)], "perplexity", False
    )
    judged = standing.difference(results)[2]
    assert judged.mean == pytest.approx(0.25) and judged.half == pytest.approx(12.7062 * 0.05, 1e-4)
    assert "0.2500 +- 0.6353 nats per token" in standing.difference_words(
        results, *standing.difference(results)
    )


def test_small_differences_have_the_decimals_their_error_needs():
    results = two([2.000027, 2.000028, 2.0000265], [2.00003, 2.000031, 2.0000298], "loss", False)
    words = standing.difference_words(results, *standing.difference(results))
    assert words.startswith("0.000003 +- 0.000000 nats in favour of a")


@pytest.mark.parametrize("seeds", [[math.nan], [], None])
def test_no_pair_of_seeds_no_difference(seeds):
    assert standing.difference(two(seeds, [0.5])) is None


def test_the_best_are_chosen_by_validation_and_else_by_the_test_score():
    def of(*models):
        return {
            "metric": "loss",
            "models": [{"name": str(i), "role": "ours"} | m for i, m in enumerate(models)],
        }

    both = of({"value": 1.0, "validation_loss": 0.4}, {"value": 2.0, "validation_loss": 0.3})
    assert standing.best(both, "ours")["name"] == "1" and standing.best(both, "rival") is None
    assert (
        standing.best(of({"value": 2.0}, {"value": 1.0}, {"value": math.nan}), "ours")["name"]
        == "1"
    )
    scored = of({"value": 1.0, "validation_score": -0.4}, {"value": 2.0, "validation_score": -0.3})
    assert standing.best(scored, "ours")["name"] == "1"
    higher = of({"value": 2.0}, {"value": 1.0}) | {"higher_is_better": True}
    assert standing.best(higher, "ours")["name"] == "0"


@pytest.mark.parametrize(
    "guide, ours, scratch, gap",
    [
        *[(3.0, 3.5, 4.0, 0.5), (3.0, 2.9, 4.0, 1.1), (3.0, 4.2, 4.0, -0.2), (4.0, 3.5, 4.0, None)],
        *[(None, 3.5, 4.0, None), (math.nan, 3.5, 4.0, None)],
    ],
)
@pytest.mark.parametrize("metric, sign", [("perplexity", 1), ("accuracy", -1)])
def test_gap_recovered_by_any_model_of_ours(guide, ours, scratch, gap, metric, sign):
    key, higher = ("loss", False) if sign == 1 else ("value", True)
    models = [
        {"name": name, "role": role, "value": 1.0} | {key: None if loss is None else sign * loss}
        for name, role, loss in (
            *[("teacher", "guide", guide), ("guided", "ours", ours)],
            ("from_scratch", "rival", scratch),
        )
    ]
    results = {"metric": metric, "higher_is_better": higher, "models": models}
    assert standing.gap_recovered(results, models[1]) == (
        None if gap is None else pytest.approx(gap)
    )
    words = {None: "No gap", -0.2: "guided is worse than from_scratch by 20.0% of the"}
    assert words.get(gap, f"guided recovers {gap or 0:.1%} of the") in flat(report.table(results))


def test_roles_are_recorded_or_else_known_by_exact_names():
    names = ["guide", "converted", "glai_joint", "glai_jointly", "mlp_sgd", "converted_2", "ridge"]
    models = read.filled({"models": [{"name": name} for name in names]})["models"]
    assert [m["role"] for m in models] == "guide ours ours rival rival rival rival".split()
    assert [m.get("family") for m in models] == [None, None, "GLAI", None, "MLP", None, "linear"]
    recorded = [{"name": "guide", "role": "rival"}, {"name": "mlp_sgd", "role": "ours"}]
    assert read.filled({"models": recorded})["models"] == recorded


def without_converted(results):
    for model in results["models"]:
        model["role"] = {"guide": "guide", "converted": "ours"}.get(model["name"], "rival")
        model["name"] = model["name"].replace("converted", "guided")


def test_no_model_has_to_be_called_converted(run):
    rows = [r | {"model": r["model"].replace("converted", "guided")} for r in run.rows]
    page = Page(report.html(edited(run, without_converted)._replace(rows=rows)))
    assert (
        "guided recovers 47.1% of the loss" in page.text and "guided has 38.10 ± 0.44" in page.text
    )
    assert "svg" in page.tags and "guided (validation)" in page.text
    assert ["guided", "938 k"] not in page.cells and "converted," not in page.text


# the page


def test_page_stands_alone(document):
    page = Page(document)
    assert all(address.startswith("#") for address in page.addresses) and page.addresses
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert "http" not in document and "@import" not in document and "currentColor" in document
    assert all(t.startswith("#") for t in re.findall(r"url\(['\"]?([^)]*)", document))
    assert document.count("<svg") == 4


def test_page_says_what_was_found(document):
    page = Page(document)
    for words in (
        *["stdlib_linear: language model on stdlib", "perplexity, lower is better · chance 1024.0"],
        *["converted has 38.10 ± 0.44", "ab" * 32, "1 distance <b>", "0.10.2", "yield key"],
        *['"schedule": "sequential"', "the same, prolonged to the conversion's training FLOPs"],
    ):
        assert words in page.text, words
    ours = next(cells for cells in page.cells if cells[:1] == ["converted"])
    assert ours[-1] == " ".join(f"{math.exp(loss):.2f}" for loss in (3.62, 3.64, 3.66))
    sizes = ["512 KiB", "4 MiB", "32 MiB"]
    assert ["guide", "938 k", "240 M", "5.30 ms", "910 µs", *sizes] in page.cells
    assert '<tr class="ours"><td class="name">converted</td>' in document
    headings = re.findall("<h2>(.*?)</h2>", document)
    assert headings == [
        *[
            "Claims",
            "Results",
            "Training",
            "Alignment",
            "Cost of use",
            "Generated samples",
            "Words",
        ],
        "Where this comes from",
    ]


def hostile(results):
    results["samples"] = [{"model": "<i>m</i>", "prompt": "<b>", "text": HOSTILE}]
    results["claims"][0]["text"] = results["data"]["name"] = results["task"] = (
        "<script>bad()</script>"
    )
    columns = [{"key": "a", "label": "<sub>"}, {"key": "b", "label": "c", "unit": "<sup>"}]
    table = {"title": "<em>", "note": "<s>", "columns": columns, "rows": [{"a": "<b>", "b": 1}]}
    results["tables"] = {"<i>": table}
    for model in results["models"]:
        model["name"] = "<u>$d$" if model["name"] == "distilled" else model["name"]


def test_hostile_text_is_escaped(tmp_path):
    path = make_run(tmp_path / "<em>", edit=hostile, settings=config(schedule="<s>"))
    rows = (path / "metrics.jsonl").read_text()
    rows = rows.replace('"distilled"', '"<u>$d$"').replace('"block_1"', '"<q>&"')
    (path / "metrics.jsonl").write_text(rows)
    written = report.write(path).read_bytes()
    page = Page(written.decode("utf8"))
    assert not page.tags & {"script", "i", "b", "u", "q", "s", "em", "sub", "sup"}
    assert HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd") in page.text
    assert "<script>bad()</script>" in page.text and "<q>&" in page.text
    assert page.words.count("<u>$d$") >= 2  # a table and a legend
    assert ["<b>", "1 <sup>"] in page.cells and b"\x00" not in written


def test_one_seed_and_no_stages(tmp_path):
    settings = config(schedule="one_shot")
    path = make_run(tmp_path / "run", seeds=1, stages=0, guide_steps=0, settings=settings)
    run = report.read_run(path)
    text = report.table(run.results)
    assert row(text, "converted")[1] == "37.34 one seed" and "Stages" not in text
    assert "+-" not in text.split("Test perplexity, mean")[0]
    assert row(text, "guide")[4:7] == ["0", "0", "0 us"]
    page = Page(report.html(run))
    assert "37.34 (one seed)" in page.text and "Alignment" not in page.text
    assert "one seed decides nothing" in page.text
    assert series.task_curve(run.rows, "converted")[0].step == 25
    assert [picture for picture, _ in seams.pictures(run)] == [None, None]


def test_accuracies_are_percentages_whatever_the_task(run):
    def edit(results):
        results.update(metric="accuracy", higher_is_better=True, chance=0.1, task="images")
        for model in results["models"]:
            model.pop("bits_per_byte")
            model.update(value=0.9 - 0.1 * model["loss"], stderr=0.00021, seeds=[0.5, 0.5])
        for stage in results["stages"]:
            stage.update(hybrid_value=0.61, hybrid_stderr=None)

    changed = edited(run, edit)
    text = report.table(changed.results)
    assert "accuracy, higher is better, chance 10.0 %" in text and "perplexity" not in text
    assert "bits/byte" not in text and "ppl" not in text
    assert row(text, "converted")[1] == "53.60 % +- 0.02"
    assert row(text, "block_2") == ["block_2", "0.900", "0.450", "61.0 %", "3.3100", "50"]
    assert "each seed (%)" in Page(report.html(changed)).text


def bare(results):
    for key in ("stages", "claims", "samples", "data", "chance", "device", "seconds_total", "task"):
        results.pop(key)
    results["models"] = [
        {"name": "converted", "value": math.nan, "stderr": None, "loss": math.nan},
        {"name": "mine", "value": None, "seeds": None, "state_bytes": None, "latency_us": math.inf},
        {"name": "guide", "value": 9.5},
    ]


def test_missing_and_unmeasured_values(tmp_path):
    path = make_run(tmp_path / "run", edit=bare, settings={"guide": 3})
    run = report.read_run(path)
    text = report.table(run.results)
    assert row(text, "guide") == ["guide", "9.50 one seed", "-"]
    assert row(text, "converted") == ["converted", "nan", "nan"] and row(text, "mine")[1] == "-"
    assert row(text.split("Cost of use")[1], "mine")[1] == "inf"
    assert text.endswith("This run states no claims.")
    for rows in (run.rows, []):
        page = Page(report.html(run._replace(rows=rows)))
        assert "This run states no claims." in page.text and "No gap" not in page.text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "key", "training_flops seed guide_stage hybrid_raw_loss phase step".split()
)
def test_rows_without_a_key(run, key):
    rows = [{name: value for name, value in row.items() if name != key} for row in run.rows]
    assert Page(report.html(run._replace(rows=rows))).tags >= {"svg", "table"}


# tables that a method adds


def columns(*specs):
    return [dict(zip(("key", "label", "unit"), spec)) for spec in specs]


TABLE = {
    "title": "What died",
    "note": "counted after <every> edit",
    "columns": columns(
        *[("arm", "arm", ""), ("part", "part", ""), ("dead", "dead units", "count")],
        *[("share", "of all", "share"), ("took", "time", "s"), ("step", "a step", "us")],
        *[("rate", "rate", ""), ("size", "size", "furlongs"), ("none", "nothing", "count")],
    ),
    "rows": [
        dict(
            arm="a", part="x", dead=1234567, share=0.125, took=0.25, step=1500, rate=0.003, size=4
        ),
        dict(arm="b", part="y", dead=0, share=None, took=90.0, step=2.5, rate=2),
    ],
}


def test_tables_of_a_method(run):
    results = run.results | {"tables": {"deaths": TABLE, "empty": {"columns": [], "rows": []}}}
    text = report.table(results)
    shown = text.split("What died")[1]
    header = ["arm", "part", "dead units", "of all", "time", "a step", "rate", "size"]
    assert row(shown, "arm") == header  # a column without anything is left out
    first = ["a", "x", "1.23 M", "12.5 %", "250 ms", "1.50 ms", "0.003", "4 furlongs"]
    assert row(shown, "a") == first
    assert row(shown, "b") == ["b", "y", "0", "-", "90.0 s", "2.50 us", "2", "-"]
    assert "counted after <every> edit" in shown and "empty" not in text
    page = Page(report.html(run._replace(rows=[], results=results)))
    assert first in page.cells and "counted after <every> edit" in page.text
    assert ["b", "y", "0", "-", "90.0 s", "2.50 µs", "2", "-"] in page.cells


def test_tables_too_wide_for_the_terminal_go_on_below(run):
    specs = columns(("name", "name", ""), *((str(i), f"column {i}", "") for i in range(20)))
    rows = [{"name": name, **{str(i): 10**7 + i for i in range(20)}} for name in ("x" * 200, "y")]
    text = report.table(run.results | {"tables": {"wide": {"columns": specs, "rows": rows}}})
    assert max(map(len, text.splitlines())) <= 100
    shown = text.split("Tables\nwide\n")[1].split("Alignment")[0]
    assert all(shown.count(f"column {i} ") + shown.count(f"column {i}\n") == 1 for i in range(20))
    blocks = [line for line in shown.splitlines() if line.startswith("y ")]
    assert len(blocks) > 3 and sum(len(line.split()) - 1 for line in blocks) == 20


@pytest.mark.parametrize("count", [1, 2, 5])
def test_columns_of_long_words_fit_the_terminal(run, count):
    specs = columns(*((str(i), f"word {i}", "") for i in range(count)), ("n", "number", "count"))
    rows = [{"n": 5, **{str(i): "y" * 90 for i in range(count)}}]
    text = report.table(run.results | {"tables": {"wide": {"columns": specs, "rows": rows}}})
    assert max(map(len, text.splitlines())) <= 100
    shown = text.split("Tables")[1]
    assert all(f"word {i}" in shown for i in range(count)) and "yyy..." in shown and " 5\n" in shown


# curves and pictures


def test_curves_begin_after_the_alignment_and_end_where_training_did(run):
    points = series.task_curve(run.rows, "converted")
    assert [point.step for point in points] == list(range(225, 401, 25))
    assert points[0].flops == pytest.approx(200 * 5e9 + 25 * 8e9)
    assert points[-1].flops == pytest.approx(2.6e12)
    first = 3.52 + (4.6 - 3.52) * math.exp(-4 * 25 / 200) + 0.01
    assert points[0].value == pytest.approx(first)
    aligned = series.distance_curves(run.rows, ["converted"])
    steps = {name: [p.step for p in points] for name, points in aligned.items()}
    assert steps == {f"block_{s + 1}": [50 * s + 25, 50 * s + 50] for s in range(4)}
    for model in run.results["models"]:
        flops = pytest.approx(model["training_flops"])
        assert series.extent(run.rows, model["name"]) == (model["optimizer_steps"], flops)


def logged(model, phase, step, seed=0, **terms):
    row = {"kind": "train", "model": model, "phase": phase, "step": step, "seed": seed}
    return row | {"loss": sum(terms.values()), "training_flops": 10.0} | terms


def test_only_phases_of_mixed_networks_are_left_out_of_a_task_curve():
    rows = [
        logged("a", "align", 5, distance=0.3),
        logged("a", "swap", 5, cross_entropy=8.0),
        logged("a", "finetune", 5, cross_entropy=7.0),
        logged("a", "finetune", 5, cross_entropy=5.0),  # the step was done again
        logged("a", "finetune", 10, cross_entropy=math.nan),
        logged("a", "finetune", 5, seed=-1, cross_entropy=0.0),  # of a search
    ]
    assert series.task_curve(rows, "a") == [series.Point("finetune", 15, 30.0, 5.0)]
    many = [series.Point("p", i, float(i), float(i)) for i in range(1000)]
    few = series.thinned(many)
    assert len(few) == 250 and few[-1] == series.Point("p", 999, 999.0, 997.5)
    assert series.thinned([]) == []


def guided(run, **terms):
    """The run with a model of ours whose rows log those terms, at steps 5 and 10 of one phase."""
    model = {"name": "guided", "role": "ours", "value": 20.0, "loss": 3.0, "seeds": [20.0]}
    rows = [logged("guided", "train", step, **terms) for step in (5, 10)]
    return run._replace(rows=rows, results=run.results | {"models": [model]})


def drawn(pictures, place=0):
    """The axes of a picture, with svg as a figure (fixture `figure_of`)."""
    return pictures[place][0].axes


def test_a_guided_model_that_logs_a_distance_keeps_its_curve(run, figure_of):
    pictures = training.pictures(guided(run, cross_entropy=2.5, distance=0.4))
    by_steps, by_flops = drawn(pictures)
    assert list(labelled(by_steps)["guided"].get_xdata()) == [5, 10]
    assert list(labelled(by_flops)["guided"].get_ydata()) == [2.5, 2.5]
    assert "no cross-entropy was logged" not in flat(pictures[0][1])
    assert series.own_curve(guided(run, cross_entropy=2.5, distance=0.4).rows, "guided") == []


def test_a_model_without_a_cross_entropy_shows_its_own_loss(run, figure_of):
    pictures = training.pictures(guided(run, kl=0.25, distance=0.5))
    by_steps, by_flops = drawn(pictures)
    for axes in (by_steps, by_flops):
        lines = labelled(axes)
        assert list(lines) == ["guided: kl + distance"] and axes.get_yscale() == "log"
        assert list(lines["guided: kl + distance"].get_ydata()) == [0.75, 0.75]
    assert by_steps.get_ylabel() == "training loss of models\nwithout a cross-entropy"
    caption = pictures[0][1]
    assert "the training loss of guided, of which no cross-entropy was logged" in caption
    assert "Diamonds" not in caption and "Cross-entropy on training" not in caption


def test_both_kinds_of_losses_stand_apart(run, figure_of):
    rows = [*guided(run, kl=0.25).rows, *(logged("guided", "more", 5, kl=0.1, hint=0.3),)]
    both = run._replace(rows=[*run.rows, *rows])
    models = [*run.results["models"], *guided(run, kl=0.25).results["models"]]
    pictures = training.pictures(both._replace(results=run.results | {"models": models}))
    task, _, own, _ = drawn(pictures)
    assert "guided" not in " ".join(labelled(task)) and "from_scratch" in labelled(task)
    assert list(labelled(own)) == ["guided: kl, then kl + hint"]
    ends = [line for line in task.lines if line.get_marker() == "D"]
    assert (10.0 + 5.0, 3.0) in {(line.get_xdata()[0], line.get_ydata()[0]) for line in ends}
    assert "Below, on a scale of its own: the training loss of guided," in pictures[0][1]


def test_training_picture(run, figure_of):
    by_steps, by_flops = drawn(training.pictures(run))
    lines = labelled(by_flops)
    assert set(lines) == {*FINAL, "guide, test loss"}
    assert lines["converted"].get_xdata()[-1] == pytest.approx(2.6e12)
    diamonds = [line for line in by_steps.lines if line.get_marker() == "D"]
    ends = {(float(li.get_xdata()[0]), round(float(li.get_ydata()[0]), 6)) for li in diamonds}
    assert ends >= {(400.0, 3.64), (500.0, 3.61)} and len(ends) == 6  # the guide's is a level
    assert list(lines["guide, test loss"].get_ydata()) == [3.1, 3.1]
    assert by_steps.get_xlim()[1] == pytest.approx(1.04 * 1.5 * 500)  # not the guide's 3000 steps
    assert by_steps.get_ylim()[0] < 3.1 and by_flops.get_xscale() == "log"
    assert by_steps.get_ylabel() == "cross-entropy (nats per token)"


def test_legends_and_captions_name_only_what_is_drawn(run, figure_of):
    rows = [row for row in run.rows if row.get("model") != "one_shot"]
    pictures = training.pictures(run._replace(rows=rows))
    figure = pictures[0][0]
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert named == {*FINAL, "guide, test loss"} - {"one_shot"}
    bare = [{k: v for k, v in m.items() if k != "loss"} for m in run.results["models"]]
    pictures = training.pictures(run._replace(results=run.results | {"models": bare}))
    assert "Diamonds" not in pictures[0][1] and "guide, test loss" not in labelled(
        pictures[0][0].axes[0]
    )
    assert training.pictures(run)[0][1].endswith("Diamonds: test losses at the end.")
    assert pictures[1][0] is None  # no validation scores were logged


def test_hybrid_and_cost_pictures(run, figure_of):
    (axes,) = drawn(seams.pictures(run), 1)
    dots = [sorted(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    stitched = sorted(3.2 + 0.1 * s + 0.01 * seed for s in range(4) for seed in range(3))
    raw = sorted(3.4 + 0.3 * s + 0.02 * seed for s in range(4) for seed in range(3))
    assert dots == [pytest.approx(stitched), pytest.approx(raw)]
    level = {name: line.get_ydata()[0] for name, line in labelled(axes).items() if "(" in name}
    assert level == {
        "guide (validation, one seed)": pytest.approx(3.05),
        "converted (validation)": pytest.approx(3.57),
        "from_scratch (validation)": pytest.approx(4.05),
    }
    assert "Raw: " in seams.pictures(run)[1][1] and "Moving" not in seams.pictures(run)[1][1]
    panels = drawn(costs.pictures(run))
    marks = [[li.get_xdata()[0] for li in a.lines if li.get_marker() == "o"] for a in panels]
    assert marks == [
        [938000, 1010000],
        [2.4e8, 2.6e8],
        [5300.0, 4100.0],
        [910.0, 450.0],
        [33554432, 65536],
    ]
    spreads = [list(li.get_xdata()) for li in panels[2].lines if li.get_marker() == "None"]
    assert spreads == [[5100.0, 5500.0], [3900.0, 4300.0]]
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == ["guide", "converted"]


def test_users_own_matplotlib_settings_change_nothing(run):
    import matplotlib

    plain = seams.pictures(run)
    with matplotlib.rc_context(
        {"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}
    ):
        assert seams.pictures(run) == plain


def test_write_is_quick_and_without_leftovers(workdir):
    began = time.monotonic()
    path = report.write(workdir)
    assert time.monotonic() - began < 5
    assert path == workdir / "report.html"
    assert path.read_text(encoding="utf8").startswith("<!DOCTYPE html>")
    files = "config.json metrics.jsonl plan.txt report.html results.json versions.json"
    assert sorted(p.name for p in workdir.iterdir()) == files.split()


def test_page_without_matplotlib(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    page = Page(report.html(run))
    assert "svg" not in page.tags and "matplotlib is not installed" in page.text
    assert "✗ FAILS" in page.text


@pytest.mark.parametrize(
    "call, expected",
    [
        (lambda: units.cell(0.183333, "accuracy"), "18.3 %"),
        (lambda: units.cell(-0.360838, "log"), "-0.361"),
        (lambda: units.cell(0.183333, "nats"), "0.183333 nats"),
        (lambda: units.human(1234567), "1.23 M"),
        (lambda: units.human(999999), "1.00 M"),
        (lambda: units.human(0), "0"),
        (lambda: units.human(999), "999"),
        (lambda: units.human(2.6e12), "2.60 T"),
        (lambda: units.human(None), "-"),
        (lambda: units.human(math.inf), "inf"),
        (lambda: units.size(1023), "1023 B"),
        (lambda: units.size(1536), "1.50 KiB"),
        (lambda: units.size(2**20), "1 MiB"),
        (lambda: units.duration(0.5), "0.50 us"),
        (lambda: units.seconds(2.5), "2.50 s"),
        (lambda: units.number(1234.567), "1234.6"),
        (lambda: units.number(3000, 0), "3000"),
        (lambda: units.number(math.nan), "nan"),
        (lambda: units.percent(0.873), "87.3 %"),
        (lambda: units.percent(None), "-"),
        (lambda: units.plain(54000), "54,000"),
        (lambda: units.plain(0.1 + 0.2), "0.3"),
        (lambda: units.spread(12.345, 0.0004, 3), "12.3450 +- 0.0004"),
        (lambda: units.spread(12.345, 0.05, 3), "12.35 +- 0.05"),
        (lambda: units.spread(12.345, 0.0, 3), "12.35 +- 0.00"),
        (lambda: units.spread(94.7, 5.6e-15, 5, 1), "94.7 +- 0.0"),
        (lambda: units.spread(12.345, None, 1), "12.35 one seed"),
        (lambda: units.spread(math.nan, 0.1, 2, 1, " %"), "nan"),
        (lambda: units.spread(87.31, 0.02, 3, 1, " %"), "87.31 % +- 0.02"),
    ],
)
def test_units(call, expected):
    assert call() == expected


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
        make_run(
            tmp_path / "b", seeds=2, guide_steps=100, settings=config(schedule="joint", extra=1)
        ),
    )


def test_compare_shows_scores_and_what_differs(pair):
    text = report.compare(pair)
    assert [line.split()[:2] for line in text.splitlines()[3:17]] == [
        [run, name] for run in "ab" for name in ("guide", "converted", *ARMS)
    ]
    ours = next(
        line for line in text.splitlines() if line.startswith("b") and " converted " in line
    )
    gap = (4.11 - 3.63) / (4.11 - 3.1)
    assert re.split(r"\s{2,}", ours)[3:] == [
        "3.6300",
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
    third = make_run(
        tmp_path / "deep" / "a", seeds=1, guide_steps=25, settings=config(schedule="joint")
    )
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
    assert (
        sum(cells[:2] == ["b", "converted"] for cells in page.cells) == 1
        and "FAILS" not in page.text
    )
    assert "cannot be written" in refusal(
        lambda: report.compare_html(pair, tmp_path / "no" / "c.html")
    )


def test_compare_refuses_repeats_and_nothing(pair):
    assert "given twice" in refusal(lambda: report.compare([pair[0], pair[0] / ".." / "a"]))
    assert "no run is given" in refusal(lambda: report.compare([]))


def launcher():
    spec = importlib.util.spec_from_file_location("launch_compare", ROOT / "launch" / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_launcher(pair, tmp_path, capsys):
    launcher().main([*map(str, pair), f"--html={tmp_path / 'c.html'}"])
    assert "convert.schedule" in capsys.readouterr().out and (tmp_path / "c.html").exists()
    with pytest.raises(UserError, match="there is no folder"):
        launcher().main([str(tmp_path / "no")])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("arguments", [[], ["run", "--htm=x"], ["nowhere"]])
def test_launcher_from_a_fresh_clone_ends_with_2_and_one_line(tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "launch" / "compare.py", *arguments],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("compare.py: ")


def test_neither_templates_nor_pictures_are_imported_before_they_are_needed():
    code = "import sys, theseus_jax, theseus_jax.report.panels as panels; assert panels.PANELS; "
    code += "sys.exit(str({'jinja2', 'matplotlib', 'scipy.stats'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


def test_report_imports_nothing_above_it():
    for path in sorted((ROOT / "theseus_jax" / "report").rglob("*.py")):
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
        assert all(
            name in ("theseus_jax.errors", "theseus_jax.judging", "theseus_jax.paths")
            or name.startswith("theseus_jax.report")
            for name in ours
        ), path
        top = {
            alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
        }
        top |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert {name.split(".")[0] for name in top - ours} <= set(sys.stdlib_module_names), path
        assert not {name.split(".")[0] for name in modules} & {"jax", "flax", "numpy"}, path
