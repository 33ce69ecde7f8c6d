"""report of runs of task "classification": cells, sentences and drawn coordinates against the rows they came from."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import statistics
from html import escape

import pytest
from test_report import Page, refusal, row

from theseus_jax import report
from theseus_jax.experiment import results as measured
from theseus_jax.experiment.classify import ACCURACY
from theseus_jax.methods.baselines import CONTROLS
from theseus_jax.report import class_figures, class_page, class_tables, classes, curves, figures, glossary, page, tables

TEST = {
    "guide": (0.90,),
    "converted": (0.80, 0.82, 0.84),
    "from_scratch": (0.70, 0.70, 0.70),
    "distilled": (0.79, 0.793, 0.799),
    "fitnets": (0.75, 0.76, 0.80),
    "supervised": (0.88, 0.881, 0.8815),
}
LOSS = {"guide": 0.3, "converted": 0.65, "from_scratch": 0.7, "distilled": 0.6, "fitnets": 0.66, "supervised": 0.4}
SEAMS = (("block_2", "block_1"), ("block_4", "block_2"), ("pool", "block_3"))  # guide stage, target stage
STAGES = ("stem", "block_1", "block_2", "block_3", "block_4")
HYBRID = ((0.88, 0.86), (0.84, 0.85), (0.70, 0.79))  # two of three seeds are enough to tell means from seeds
MOVING = ((0.80, 0.80), (0.50, 0.52), (0.33, 0.35))
CLAIM = "60.0% of 0.7000 to 0.9000 accuracy; above half by +0.0200 +- 0.0497 (95 % over 3 paired seeds)"


def train(model, phase, steps, flops=1e6, **terms):
    """Rows of both steps of a phase, of three seeds (one for the guide)."""
    return [
        {"kind": "train", "model": model, "phase": phase, "seed": seed, "step": step, "loss": 1.0, "training_flops": flops}
        | {term: value + 0.01 * seed for term, value in terms.items()}
        for seed in range(1 if model == "guide" else 3)
        for step in (steps // 2, steps)
    ]


def stage_rows():
    return [
        {"kind": "stage", "model": "converted", "phase": "align", "stage": ours, "guide_stage": theirs, "seed": seed}
        | {"hybrid_accuracy": HYBRID[i][seed], "hybrid_loss": 0.5, "hybrid_moving_accuracy": MOVING[i][seed]}
        | ({"hybrid_raw_accuracy": 0.12 + 0.01 * seed} if i == 2 else {})
        for i, (theirs, ours) in enumerate(SEAMS)
        for seed in range(2)
    ]


def run_rows():
    """The default schedule: one phase for all seams, then fine-tuning on the guide's outputs and the seams' distance."""
    rows = train("guide", "train", 100, cross_entropy=0.5) + train("converted", "align", 40, distance=0.4)
    rows += stage_rows() + train("converted", "finetune", 160, kl=0.2, distance=0.1)
    rows += train("from_scratch", "finetune", 200, cross_entropy=0.8) + train("distilled", "finetune", 200, kl=0.3)
    for name, scores in TEST.items():
        rows += [
            {"kind": "model", "model": name, "seed": seed, "validation_accuracy": value + 0.01, "test_accuracy": value}
            for seed, value in enumerate(scores)
        ]
    return rows


def model_record(name):
    values, guide = list(TEST[name]), name == "guide"
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {
        "name": name,
        "value": statistics.fmean(values),
        "stderr": spread,
        "seeds": values,
        "loss": LOSS[name],
        "optimizer_steps": 100 if guide else 200,
        "training_flops": 2e8,
        "seconds": 1.5,
        "parameters": 45150 if guide else 4714,
        "adapter_parameters": 0,
        "flops_per_example": 173278.0 if guide else 10192.0,
        "latency_us": 308.0 if guide else 48.0,
        "latency_iqr_us": 16.0,
        "train_examples": 5000 if name in ("guide", "converted", "distilled", "supervised") else 200,
        "labels": 0 if name in ("converted", "distilled") else 5000 if name in ("guide", "supervised") else 200,
    }


def stage_record(i):
    ours = HYBRID[i]
    return {
        "stage": SEAMS[i][1],
        "guide_stage": SEAMS[i][0],
        "similarity": {"cka_debiased": 0.9 - 0.1 * i, "mutual_knn": 0.25},
        "hybrid_value": statistics.fmean(ours),
        "hybrid_stderr": abs(ours[0] - ours[1]) / 2,
        "hybrid_loss": 0.5,
        "hybrid_raw_loss": 2.5 if i == 2 else None,
        "hybrid_raw_accuracy": 0.125 if i == 2 else None,
        "hybrid_moving_accuracy": statistics.fmean(MOVING[i]),
        "stitch_parameters": 5248 - i,
        "optimizer_steps": 40,
    }


def cka(count):
    return [[1.0 if i == j else 1 / (2 + abs(i - j)) + 0.01 * (i + j) / count for j in range(count)] for i in range(count)]


def run_results():
    return {
        "schema": 1,
        "task": "classification",
        "metric": "accuracy",
        "higher_is_better": True,
        "chance": 0.1003,
        "data": {
            "name": "digits",
            "sha256": "ab12" * 16,
            "note": "200 of 5000 training examples, stratified with seed 0",
            "classes": ["zero", "one", "<two>"],
            "train_examples": 200,
            "guide_train_examples": 5000,
            "validation_examples": 360,
            "eval_examples": 1000,
        },
        "models": [model_record(name) for name in TEST],
        "stages": [stage_record(i) for i in range(3)],
        "claims": [
            {"text": "converted recovers at least half of the gap", "holds": True, "measured": CLAIM},
        ],
        "guide_similarity": {"stages": list(STAGES), "cka": cka(len(STAGES))},
        "device": "cpu cpu",
        "seconds_total": 60.0,
    }


CONFIG = {
    "task": "classification",
    "guide": {"origin": "trained", "arch": "resnet18", "cell": "linear", "width": 4, "depth": 0},
    "target": {"arch": "mlp", "cell": "linear", "width": 32, "depth": 3},
    "convert": {"schedule": "joint", "steps": 200},
}


def make_run(path, *, edit=lambda results: None, rows=None, settings=CONFIG):
    """A workdir as a finished classification leaves it; `edit` changes results.json first."""
    path.mkdir(parents=True)
    results = run_results()
    edit(results)
    (path / "config.json").write_text(json.dumps(settings))
    (path / "plan.txt").write_text("guide: 45,150 parameters\n")
    (path / "versions.json").write_text(json.dumps({"jax": "0.10.2"}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (run_rows() if rows is None else rows)))
    (path / "results.json").write_text(json.dumps(results))
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def run(workdir):
    return report.read_run(workdir)


def edited(run, edit):
    results = copy.deepcopy(run.results)
    edit(results)
    return run._replace(results=results)


def models_of(results):
    return {model["name"]: model for model in results["models"]}


def labelled(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


# the terminal


def test_scores_are_percentages_with_what_each_model_could_use(run):
    text = report.table(run.results)
    assert text.startswith("Test results: accuracy, higher is better, chance 10.0 %; loss in nats;")
    assert row(text, "model") == ["model", "accuracy", "loss", "examples", "labels", "steps", "FLOPs", "seconds"]
    assert row(text, "guide") == ["guide", "90.0 % one seed", "0.300", "5000", "5000", "100", "200 M", "1.5"]
    assert row(text, "converted")[1:5] == ["82.0 % +- 1.2", "0.650", "5000", "0"]  # 2 / sqrt(3) = 1.155
    assert row(text, "from_scratch")[1:5] == ["70.0 % +- 0.0", "0.700", "200", "200"]
    assert row(text, "supervised")[1] == "88.08 % +- 0.04"  # an error below 0.05 points asks for more decimals
    assert max(map(len, text.splitlines())) <= 100 and text.isascii()


def test_only_what_classifiers_have_is_named(run, document):
    shown = Page(document).text.split("Where this comes from")[0]
    for text in (report.table(run.results), shown):
        for word in ("state bytes", "token", "perplexity", "ppl", "bits/byte", "context", "sample"):
            assert word not in text.lower(), word


def test_the_gap_is_that_of_the_claims(run):
    share = (0.82 - 0.7) / (0.9 - 0.7)  # in loss it would be 12.5%
    assert tables.gap_recovered(run.results) == pytest.approx(share)
    assert f"converted recovers {share:.1%} of the accuracy between from_scratch and guide" in report.table(run.results)
    assert f"recovers {share:.0%} of the accuracy between from_scratch and guide" in page.summary(run)
    claims = measured.claims(run.results["models"], ACCURACY)
    assert [c["measured"] for c in claims if "recovers" in c["text"]] == [CLAIM] and CLAIM.startswith(f"{share:.1%}")


@pytest.mark.parametrize(
    "guide, ours, scratch, gap",
    [(0.9, 0.8, 0.7, 0.5), (0.9, 0.65, 0.7, -0.25), (0.9, 0.95, 0.7, 1.25), (0.7, 0.8, 0.7, None), (None, 0.8, 0.7, None)],
)
def test_gap_in_accuracy(run, guide, ours, scratch, gap):
    def edit(results):
        for name, value in (("guide", guide), ("converted", ours), ("from_scratch", scratch)):
            models_of(results)[name]["value"] = value

    changed = edited(run, edit)
    assert tables.gap_recovered(changed.results) == (None if gap is None else pytest.approx(gap))
    words = {None: "No gap", -0.25: "worse than training from scratch by 25% of the accuracy"}
    words = words.get(gap, f"recovers {gap or 0:.0%}")
    assert words in page.summary(changed)
    assert ("% of the accuracy between" in report.table(changed.results)) == (gap is not None)


def test_stages_show_the_effect_of_recalibration(run):
    text = report.table(run.results)
    stages = text.split("Stages (target = guide)")[1]
    assert row(stages, "stage") == ["stage", "CKA", "kNN", "raw", "moving", "recal.", "accuracy", "loss", "stitch", "steps"]
    assert row(stages, "block_1 = block_2")[1:] == [
        "0.900", "0.250", "-", "80.0 %", "+7.0", "87.0 % +- 1.0", "0.500", "5.25 k", "40",
    ]  # fmt: skip
    last = row(stages, "block_3 = pool")
    assert last[3:7] == ["12.5 %", "34.0 %", "+40.5", "74.5 % +- 4.5"]
    assert "raw: without the stitch; moving: with the moving averages" in " ".join(text.split())


def test_stages_without_optional_scores(run):
    def edit(results):
        for stage in results["stages"]:
            stage.update(hybrid_moving_accuracy=None, hybrid_raw_accuracy=None, hybrid_stderr=0.0)
            stage.pop("stitch_parameters")

    grid = class_tables.stage_grid(edited(run, edit).results)
    assert grid.header == ("stage", "CKA", "kNN", "accuracy", "loss", "steps") and grid.rows[0][3] == "87.0 %"
    assert class_tables.stage_words(grid) == ""


def test_costs_show_each_network_once_with_its_adapters(run):
    plain = class_tables.use_grid(run.results)
    assert plain.header == ("model", "params", "FLOPs/ex.", "forward")
    assert plain.rows == [("guide", "45.2 k", "173 k", "308 us"), ("converted", "4.71 k", "10.2 k", "48 us")]

    def edit(results):
        for name in ("converted", "distilled"):
            models_of(results)[name]["adapter_parameters"] = 1200

    grid = class_tables.use_grid(edited(run, edit).results)
    assert grid.header[:3] == ("model", "params", "in adapters")
    assert [line[:3] for line in grid.rows] == [
        ("guide", "45.2 k", "0"), ("converted", "4.71 k", "1.20 k"), ("from_scratch", "4.71 k", "0"),
    ]  # fmt: skip
    assert "1.20 k of them in adapters" in page.summary(edited(run, edit))


def test_features(run):
    assert class_tables.feature_grid(run.results).rows == []

    def edit(results):
        models_of(results)["guide"].update(probe_accuracy=0.951, probe_seeds=[0.951])
        models_of(results)["fitnets"].update(probe_accuracy=0.9, probe_seeds=[0.89, 0.90, 0.91])
        models_of(results)["converted"].update(
            probe_accuracy=0.9, agreement={"cosine": None, "pearson": 0.5, "spearman": 0.4444}
        )

    changed = edited(run, edit)
    text = report.table(changed.results)
    shown = text.split("Features that heads read:")[1].split("Costs")[0]
    assert row(shown, "model") == ["model", "probe", "pearson", "spearman"]
    assert row(shown, "guide") == ["guide", "95.1 % one seed", "-", "-"]
    assert row(shown, "fitnets")[1] == "90.0 % +- 0.6"  # 1 / sqrt(3)
    assert row(shown, "converted") == ["converted", "90.0 %", "0.500", "0.444"] and "distilled" not in shown
    assert ["converted", "90.0 %", "0.500", "0.444"] in Page(report.html(changed)).cells


def test_similarity_of_the_guide_in_the_terminal(run):
    matrix, text = cka(5), report.table(run.results)
    shown = text.split("Debiased CKA of the guide's stages")[1].split("Claims")[0]
    third = next(line.split() for line in shown.splitlines() if line.startswith("3"))
    assert third == ["3", "block_2", "=", "block_1", *(f"{value:.2f}" for value in matrix[2][:3])]
    assert "4  block_3 " in shown and "5  block_4 = block_2" in shown
    for count in (12, 13):
        names = [f"block_{i}" for i in range(count)]
        change = {"guide_similarity": {"stages": names, "cka": cka(count)}}
        text = report.table(run.results | change)
        assert ("Debiased CKA of the guide's stages" in text) == (count == 12) and max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("table", [{}, None, {"stages": ["a"], "cka": []}, {"stages": ["a", "b"], "cka": [[1, 1], [1]]}])
def test_no_similarity_no_section(run, table):
    changed = run._replace(results=run.results | {"guide_similarity": table})
    assert "Debiased CKA of the guide" not in report.table(changed.results) and class_figures.similarity(changed) is None
    assert "Stages of the guide" not in Page(report.html(changed)).text


def test_data_in_words(run):
    line = "digits, 3 classes, 5,000 training examples, 200 of these labelled for conversion and controls, 360 validation, "
    line += "1,000 test, sha256 ab12ab12ab12; 200 of 5000 training examples, stratified with seed 0"
    assert classes.data_line(run.results) == line and line in " ".join(report.table(run.results).split())
    facts = dict(classes.data_facts(run.results | {"data": {**run.results["data"], "python": "3.12"}}))
    assert facts["sha256"] == "ab12" * 16 and facts["classes"] == "3: zero, one, <two>" and facts["python"] == "3.12"

    def edit(results):
        models_of(results)["converted"].update(train_examples=200, labels=200)
        models_of(results)["distilled"].update(train_examples=200, labels=0)

    changed = edited(run, edit).results
    assert "200 of these for conversion and controls" in classes.data_line(changed)
    assert classes.data_line({"models": []}) == "" and classes.data_facts({"models": []}) == []
    many = {"models": [], "data": {"classes": list(range(1000))}}
    assert classes.data_facts(many) == [("classes", f"1000: {', '.join(map(str, range(20)))}, ...")]


@pytest.mark.parametrize(
    "model, words",
    [
        ({"train_examples": 5000, "labels": 0}, "5,000 training examples of digits, without their labels"),
        ({"train_examples": 5000, "labels": 200}, "5,000 training examples of digits, 200 of them with labels"),
        ({"train_examples": 200, "labels": 200}, "200 of 5,000 training examples of digits"),
        ({}, "200 of 5,000 training examples of digits"),
    ],
)
def test_what_a_model_was_trained_on(run, model, words):
    assert classes.training_data(run.results, model) == words


@pytest.mark.parametrize(
    "call, expected",
    [
        (lambda: classes.percent_spread(0.8731, 0.0021, 3), "87.3 % +- 0.2"),
        (lambda: classes.percent_spread(0.8731, 0.0002, 3), "87.31 % +- 0.02"),
        (lambda: classes.percent_spread(0.8731, 0.0, 1), "87.3 % one seed"),
        (lambda: classes.percent_spread(1.0, 0.0, 2), "100.0 % +- 0.0"),
        (lambda: classes.percent_spread(None, None, 1), "-"),
        (lambda: classes.percent_spread(float("nan"), 0.1, 2), "nan"),
        (lambda: classes.percent(None), "-"),
        (lambda: classes.points(-0.0123), "-1.2"),
        (lambda: classes.points(None), "-"),
        (lambda: classes.counted(54000), "54,000"),
    ],
)
def test_numbers(call, expected):
    assert call() == expected


# the page


def test_page_says_what_was_found(document, run):
    shown = Page(document)
    for words in (
        "digits: classification of digits",
        "accuracy, higher is better · chance 10.0 % · cpu cpu",
        "The guide (trained resnet18, width 4, 45.2 k parameters) became the target (mlp, depth 3, width 32, 4.71 k "
        "parameters) by the joint schedule in 200 optimizer steps on 5,000 training examples of digits, without their "
        "labels.",
        "converted 82.0 % ± 1.2, guide 90.0 % (one seed), the same target trained from scratch 70.0 % ± 0.0",
        "always the most common class: 10.0 %",
        "without a curve: converted, distilled.",
        "Lines: seams",
        "Not in the map: pool = block_3.",
        "Moving averages: before batch norm was recalibrated.",
        "3: zero, one, <two>",
        "ab12" * 16,
    ):
        assert words in shown.text, words
    ours = next(cells for cells in shown.cells if cells[:1] == ["converted"])
    assert ours[1] == "82.0 % ± 1.2" and ours[-1] == "80.00 82.00 84.00"
    assert "The converted network's curve begins" not in shown.text
    assert document.count("<svg") == 5 and "<image" not in document
    assert all(address.startswith("#") for address in shown.addresses) and "http" not in document


def test_missing_parts_leave_no_empty_sections(run):
    def bare(results):
        for key in ("stages", "guide_similarity", "data", "chance", "claims"):
            results.pop(key)
        results["models"] = [{"name": "converted", "value": 0.5}, {"name": "guide", "value": None}]

    changed = edited(run, bare)._replace(rows=[])
    text = report.table(changed.results)
    assert row(text, "converted") == ["converted", "50.0 % one seed"] and "Data:" not in text and "Stages" not in text
    shown = Page(report.html(changed)).text
    for words in ("Stages of the guide", "Features", "Cost of use", "chance", "most common"):
        assert words not in shown, words
    assert "No stage was measured" in shown and "No gap" in shown


def test_without_matplotlib_the_similarity_is_a_table(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    shown = Page(report.html(run))
    assert "svg" not in shown.tags and ["3", "block_2 = block_1"] == next(c for c in shown.cells if c[:1] == ["3"])[:2]


def test_hostile_names_are_escaped(tmp_path):
    def hostile(results):
        results["guide_similarity"]["stages"][2] = results["stages"][0]["guide_stage"] = "<b>$x$"
        results["stages"][0]["stage"] = results["data"]["name"] = "<script>bad()</script>"
        models_of(results)["fitnets"]["name"] = "<u>"

    rows = [json.loads(json.dumps(line).replace('"block_1"', '"<i>"')) for line in run_rows()]
    path = make_run(tmp_path / "<em>", edit=hostile, rows=rows, settings=CONFIG | {"guide": {"arch": "<q>"}})
    shown = Page(report.write(path).read_text(encoding="utf8"))
    assert not shown.tags & {"script", "b", "i", "u", "q", "em"}
    assert "<b>$x$ = <script>bad()</script>" in shown.text and "<q>, 45.2 k" in shown.text and "<i>" in shown.text


# pictures


def test_picture_of_hybrids(run, figure_of):
    (axes,) = class_figures.hybrids(run).axes
    lines = labelled(axes)
    assert list(lines["hybrid"].get_xdata()) == [1, 2, 3]
    assert list(lines["hybrid"].get_ydata()) == pytest.approx([87, 84.5, 74.5])
    assert list(lines["hybrid, moving averages"].get_ydata()) == pytest.approx([80, 51, 34])
    assert list(lines["hybrid, raw"].get_ydata()) == pytest.approx([12.5])
    dots = {line.get_color(): sorted(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"}
    assert dots[lines["hybrid"].get_color()] == pytest.approx(sorted(100 * v for pair in HYBRID for v in pair))
    levels = {name: line.get_ydata()[0] for name, line in lines.items() if "(" in name}
    assert levels == {
        "guide (validation, one seed)": pytest.approx(91),
        "converted at the end (validation)": pytest.approx(83),
        "from_scratch (validation)": pytest.approx(71),
    }
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1\nblock_1", "2\nblock_2", "3\nblock_3"]


def test_hybrids_stand_against_test_scores_where_no_others_are_known(run, figure_of):
    (axes,) = class_figures.hybrids(run._replace(rows=stage_rows())).axes
    levels = {name: line.get_ydata()[0] for name, line in labelled(axes).items() if "(" in name}
    assert levels["guide (test)"] == pytest.approx(90) and levels["converted at the end (test)"] == pytest.approx(82)
    assert class_figures.hybrids(run._replace(rows=[])) is None


def test_picture_of_the_guide(run, figure_of):
    axes = class_figures.similarity(run).axes[0]
    (mesh,) = axes.collections
    assert mesh.get_array().reshape(-1).tolist() == pytest.approx([value for line in cka(5) for value in line])
    seams = {name: list(line.get_ydata()) for name, line in labelled(axes).items()}
    assert seams == {"block_2 = block_1": [3, 3], "block_4 = block_2": [5, 5]}
    crossing = [list(line.get_xdata()) for line in axes.lines if line.get_label().startswith("_")]
    assert crossing == [[3, 3], [5, 5]]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "stem", "block_1", "block_2 = block_1", "block_3", "block_4 = block_2",
    ]  # fmt: skip
    assert axes.get_ylim() == (5, 0)
    texts = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    assert texts[(0.5, 2.5)] == f"{cka(5)[2][0]:.2f}" and len(texts) == 25


def test_picture_of_a_guide_with_many_stages_and_gaps(run):
    matrix = cka(30)
    matrix[3][4], matrix[4][3] = None, -0.2
    table = {"stages": [f"block_{i}" for i in range(30)], "cka": matrix}
    drawn = class_figures.similarity(run._replace(results=run.results | {"guide_similarity": table}))
    assert "<image" not in drawn and "block_29" in drawn and "block_2 = block_1" in drawn


def test_picture_of_costs(run, figure_of):
    panels = class_figures.costs(run).axes
    assert [[bar.get_width() for bar in axes.patches] for axes in panels] == [[45150, 4714], [173278, 10192], [308, 48]]
    assert [text.get_text() for text in panels[2].texts] == ["308 µs", "48 µs"]
    assert class_figures.costs(run._replace(results=run.results | {"models": [{"name": "guide"}]})) is None


def test_models_without_a_curve_still_end_somewhere(run, figure_of):
    by_steps, by_flops = figures.training(run).axes
    lines = labelled(by_steps)
    assert set(lines) == {"guide", "converted", "from_scratch", "distilled"}  # the others have no rows of training
    assert len(lines["converted"].get_xdata()) == 0 and list(lines["from_scratch"].get_xdata()) == [100, 200]
    ends = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in by_steps.lines if line.get_marker() == "D"}
    assert {(200.0, 0.65), (200.0, 0.6), (200.0, 0.7)} <= ends
    low, high = by_steps.patches[0].get_extents().transformed(by_steps.transData.inverted()).intervalx
    assert (low, high) == (pytest.approx(0), pytest.approx(40))  # the distance in fine-tuning is no alignment
    (words,) = [text for text in by_steps.texts if text.get_text() == "alignment of converted"]
    assert (words.get_position()[0], words.get_ha()) == (0, "left")  # too narrow to hold it


def test_curves_of_joint_alignment_and_of_fine_tuning_with_a_distance(run):
    assert {name: [p.step for p in points] for name, points in curves.distance_curves(run.rows).items()} == {
        "align": [20, 40],
        "finetune": [120, 200],
    }
    rows = train("converted", "align", 10, distance=0.4, cross_entropy=9.0)
    rows += train("converted", "finetune", 10, distance=0.1, cross_entropy=2.0)
    assert [(p.phase, p.step, p.value) for p in curves.task_curve(rows, "converted")] == [
        ("finetune", 15, pytest.approx(2.01)), ("finetune", 20, pytest.approx(2.01)),
    ]  # fmt: skip
    search = {"kind": "model", "model": "converted", "seed": -1, "validation_accuracy": 0.1}
    assert curves.final([*run.rows, search], "converted", "validation_accuracy") == pytest.approx([0.81, 0.83, 0.85])


# side by side


def test_compare_classifications(tmp_path):
    def few(results):
        models_of(results)["converted"].update(value=0.75, train_examples=200, labels=200, probe_accuracy=0.5)

    paths = make_run(tmp_path / "a"), make_run(tmp_path / "b", edit=few)
    text = report.compare(paths)
    assert "gap: share of the accuracy between from_scratch and guide that converted recovers" in text
    header = next(line.split() for line in text.splitlines() if line.startswith("run"))
    lines = {tuple(line.split()[:2]): line for line in text.splitlines()}
    assert header == ["run", "model", "accuracy", "loss", "gap", "probe", "examples", "labels", "steps", "FLOPs", "params"]
    ours, other = lines["a", "converted"], lines["b", "converted"]
    assert "82.0 % +- 1.2" in ours and "60.0%" in ours and ours.split()[-7:-5] == ["5000", "0"]
    assert "25.0%" in other and "50.0 %" in other and other.split()[-7:-5] == ["200", "200"]


def test_compare_refuses_other_test_examples(tmp_path):
    def other(results):
        results["data"]["eval_examples"] = 500

    paths = make_run(tmp_path / "a"), make_run(tmp_path / "b", edit=other)
    assert "data.eval_examples is 1000 in a and 500 in b" in refusal(lambda: report.compare(paths))
    assert report.compare(paths, anyway=True).startswith("Not comparable: data.eval_examples")


def test_sizes_in_the_lead(run):
    text = {"arch": "birnn", "cell": "lru", "units": 64, "depth": 2, "width": 384}
    changed = run._replace(config={"guide": 3, "target": text})
    text = class_page.subject(changed)
    assert "became the target (birnn, lru cells, depth 2, width 384, units 64, 4.71 k parameters)" in text
    assert "The guide (45.2 k parameters)" in text


@pytest.mark.slow
def test_the_words_of_the_report_are_explained_and_those_of_other_runs_left_out(run):
    names = {model["name"] for model in run.results["models"]}
    told = dict(glossary.terms(run.results))
    assert set(glossary.MODELS) == set(CONTROLS), "every control has a meaning"
    assert {name for name in told if name in CONTROLS} == names & set(CONTROLS)
    assert told["guide"] and ("..._equal_flops" in told) == any(name.endswith("_equal_flops") for name in names)
    longer = {"models": [*run.results["models"], {"name": "ted_equal_flops"}]}
    assert {"ted", "..._equal_flops"} <= set(dict(glossary.terms(longer)))
    assert all(escape(meaning) in page.html(run) for meaning in told.values())
