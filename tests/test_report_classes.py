"""report of conversions of classifiers: cells, sentences and coordinates against their rows."""

from __future__ import annotations

import importlib.util
import json
import math
import statistics

import pytest
from test_report import Page, drawn, edited, flat, labelled, refusal, row

from theseus_jax import report
from theseus_jax.report import series
from theseus_jax.report.panels import costs, guide_map, lead, provenance, seams, training, words

pytestmark = pytest.mark.slow

TEST = {
    "guide": (0.90,),
    "converted": (0.80, 0.82, 0.84),
    "from_scratch": (0.70, 0.70, 0.70),
    "distilled": (0.79, 0.793, 0.799),
    "fitnets": (0.75, 0.76, 0.80),
    "supervised": (0.88, 0.881, 0.8815),
}
LOSS = {
    "guide": 0.3,
    "converted": 0.65,
    "from_scratch": 0.7,
    "distilled": 0.6,
    "fitnets": 0.66,
    "supervised": 0.4,
}
SEAMS = (
    ("block_2", "block_1"),
    ("block_4", "block_2"),
    ("pool", "block_3"),
)  # guide stage, target stage
STAGES = ("stem", "block_1", "block_2", "block_3", "block_4")
HYBRID = (
    (0.88, 0.86),
    (0.84, 0.85),
    (0.70, 0.79),
)  # two of three seeds are enough to tell means from seeds
MOVING = ((0.80, 0.80), (0.50, 0.52), (0.33, 0.35))
CLAIM = (
    "60.0% of 0.7000 to 0.9000 accuracy; above half by +0.0200 +- 0.0497 (95 % over 3 paired seeds)"
)


def train(model, phase, steps, flops=1e6, **terms):
    """Rows of both steps of a phase, of three seeds (one for the guide)."""
    return [
        {
            "kind": "train",
            "model": model,
            "phase": phase,
            "seed": seed,
            "step": step,
            "loss": 1.0,
            "training_flops": flops,
        }
        | {term: value + 0.01 * seed for term, value in terms.items()}
        for seed in range(1 if model == "guide" else 3)
        for step in (steps // 2, steps)
    ]


def stage_rows():
    return [
        {
            "kind": "stage",
            "model": "converted",
            "phase": "align",
            "stage": ours,
            "guide_stage": theirs,
            "seed": seed,
        }
        | {
            "hybrid_accuracy": HYBRID[i][seed],
            "hybrid_loss": 0.5,
            "hybrid_moving_accuracy": MOVING[i][seed],
        }
        | ({"hybrid_raw_accuracy": 0.12 + 0.01 * seed} if i == 2 else {})
        for i, (theirs, ours) in enumerate(SEAMS)
        for seed in range(2)
    ]


def run_rows():
    """The default schedule: one phase for all seams, then tuning on outputs and distance."""
    rows = train("guide", "train", 100, cross_entropy=0.5) + train(
        "converted", "align", 40, distance=0.4
    )
    rows += stage_rows() + train("converted", "finetune", 160, kl=0.2, distance=0.1)
    rows += train("from_scratch", "finetune", 200, cross_entropy=0.8) + train(
        "distilled", "finetune", 200, kl=0.3
    )
    for name, scores in TEST.items():
        rows += [
            {
                "kind": "model",
                "model": name,
                "seed": seed,
                "validation_accuracy": value + 0.01,
                "test_accuracy": value,
            }
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
        "train_examples": (
            5000 if name in ("guide", "converted", "distilled", "supervised") else 200
        ),
        "labels": (
            0
            if name in ("converted", "distilled")
            else 5000
            if name in ("guide", "supervised")
            else 200
        ),
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
    return [
        [1.0 if i == j else 1 / (2 + abs(i - j)) + 0.01 * (i + j) / count for j in range(count)]
        for i in range(count)
    ]


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
            {
                "text": "converted recovers at least half of the gap",
                "holds": True,
                "measured": CLAIM,
            }
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
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (run_rows() if rows is None else rows))
    )
    (path / "results.json").write_text(json.dumps(results))
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def run(workdir):
    return report.read_run(workdir)


def models_of(results):
    return {model["name"]: model for model in results["models"]}


# the terminal


def test_scores_are_percentages_with_what_each_model_could_use(run):
    text = report.table(run.results)
    assert text.startswith("Test results: accuracy, higher is better, chance 10.0 %, cpu cpu")
    header = "model accuracy loss examples labels steps FLOPs time".split()
    assert row(text, "model") == header
    guide = ["guide", "90.0 % one seed", "0.3000", "5000", "5000", "100", "200 M", "1.50 s"]
    assert row(text, "guide") == guide
    assert row(text, "converted")[1:5] == ["82.0 % +- 1.2", "0.6500", "5000", "0"]  # 2 / sqrt(3)
    assert row(text, "from_scratch")[1:5] == ["70.0 % +- 0.0", "0.7000", "200", "200"]
    assert row(text, "supervised")[1] == "88.08 % +- 0.04"  # a small error asks for more decimals
    assert max(map(len, text.splitlines())) <= 100 and text.isascii()


def test_only_what_classifiers_have_is_named(run, document):
    shown = Page(document).text.split("Where this comes from")[0]
    for text in (report.table(run.results), shown):
        for word in ("bytes", "token", "perplexity", "ppl", "bits/byte", "context", "sample"):
            assert word not in text.lower(), word


def test_lead(run):
    text = flat(lead.words(run)[0])
    for part in (
        (
            "6 models compared, with 3 seeds each, the guide with one seed, on digits, 3 classes,"
            " 5,000 training examples, 200 of these in the share, 360 validation examples, 1,000"
            " test examples (200 of 5000 training examples, stratified with seed 0)."
        ),
        (
            "The config says guide: trained resnet18, width 4; target: mlp, depth 3, width 32; "
            "schedule: joint."
        ),
        (
            "guide has 90.0 % (one seed); converted has 82.0 % +- 1.2; supervised, the best of 4 "
            "rivals by test score, has 88.08 % +- 0.04. converted and supervised differ by"
        ),
        "converted recovers 60.0% of the accuracy between from_scratch and guide.",
    ):
        assert part in text, part
    assert "recovers 60.0% of the accuracy" in flat(report.table(run.results))
    assert CLAIM.startswith("60.0%")  # the gap of the lead is that of the claim


def test_networks_in_the_lead(run):
    target = {"arch": "birnn", "cell": "LRU", "units": 64, "depth": 2, "width": 384}
    (text,) = lead.words(run._replace(config={"guide": 3, "target": target, "convert": None}))
    assert "The config says target: birnn LRU, depth 2, width 384, units 64." in text
    assert "The config says" not in lead.words(run._replace(config={}))[0]


def test_stages_show_the_effect_of_recalibration(run):
    shown = report.table(run.results).split("Stages (target = guide)")[1]
    header = "stage CKA kNN raw moving recal. accuracy loss stitch steps".split()
    assert row(shown, "stage") == header
    first = ["0.900", "0.250", "-", "80.0 %", "+7.0", "87.0 % +- 1.0", "0.5000", "5.25 k", "40"]
    assert row(shown, "block_1 = block_2")[1:] == first
    last = row(shown, "block_3 = pool")
    assert last[3:7] == ["12.5 %", "34.0 %", "+40.5", "74.5 % +- 4.5"]
    assert "moving: with the moving averages of batch norm" in flat(shown)


def test_stages_without_optional_scores(run):
    def edit(results):
        for stage in results["stages"]:
            gone = dict.fromkeys(("hybrid_moving_accuracy", "hybrid_raw_accuracy"))
            stage.update(gone, hybrid_stderr=0.0)
            stage.pop("stitch_parameters")

    (grid,) = seams.grids(edited(run, edit))
    assert grid.header == ("stage", "CKA", "kNN", "accuracy", "loss", "steps")
    assert grid.rows[0][3] == "87.0 %" and "moving" not in grid.note and "stitch:" not in grid.note


def test_costs_show_each_network_once_with_its_adapters(run):
    (plain,) = costs.grids(run)
    assert plain.header == ("model", "params", "FLOPs/ex.", "forward")
    ours = ("converted", "4.71 k", "10.2 k", "48 us")
    assert plain.rows == [("guide", "45.2 k", "173 k", "308 us"), ours]

    def edit(results):
        for name in ("converted", "distilled"):
            models_of(results)[name]["adapter_parameters"] = 1200

    (grid,) = costs.grids(edited(run, edit))
    assert grid.header[:3] == ("model", "params", "in adapters")
    assert [line[:3] for line in grid.rows] == [
        *[("guide", "45.2 k", "0"), ("converted", "4.71 k", "1.20 k")],
        ("from_scratch", "4.71 k", "0"),
    ]
    assert "distilled: as converted; fitnets, supervised: as from_scratch." in grid.note


def test_features(run):
    assert "Features" not in report.table(run.results)

    def edit(results):
        agreement = {"cosine": None, "pearson": 0.5, "spearman": 0.4444}
        models_of(results)["guide"].update(probe_accuracy=0.951, probe_seeds=[0.951])
        models_of(results)["fitnets"].update(probe_accuracy=0.9, probe_seeds=[0.89, 0.90, 0.91])
        models_of(results)["converted"].update(probe_accuracy=0.9, agreement=agreement)

    changed = edited(run, edit)
    shown = report.table(changed.results).split("Features:")[1].split("Alignment")[0]
    assert row(shown, "model") == ["model", "probe", "pearson", "spearman"]
    assert row(shown, "guide") == ["guide", "95.1 % one seed", "-", "-"]
    assert row(shown, "fitnets")[1] == "90.0 % +- 0.6"  # 1 / sqrt(3)
    ours = ["converted", "90.0 %", "0.500", "0.444"]
    assert row(shown, "converted") == ours and "distilled" not in shown
    assert ours in Page(report.html(changed)).cells


def test_similarity_of_the_guide_in_the_terminal(run):
    matrix, text = cka(5), report.table(run.results)
    shown = text.split("Stages of the guide")[1].split("Cost of use")[0]
    third = next(line.split() for line in shown.splitlines() if line.startswith("3"))
    assert third == ["3", "block_2", "=", "block_1", *(f"{value:.2f}" for value in matrix[2][:3])]
    assert "4  block_3 " in shown and "5  block_4 = block_2" in shown
    for count in (12, 13):
        names = [f"block_{i}" for i in range(count)]
        change = {"guide_similarity": {"stages": names, "cka": cka(count)}}
        text = report.table(run.results | change)
        assert ("Stages of the guide" in text) == (count == 12)
        assert max(map(len, text.splitlines())) <= 100


NONE = [{}, None, {"stages": ["a"], "cka": []}, {"stages": ["a", "b"], "cka": [[1, 1], [1]]}]


@pytest.mark.parametrize("table", NONE)
def test_no_similarity_no_section(run, table):
    changed = run._replace(rows=[], results=run.results | {"guide_similarity": table})
    assert "Stages of the guide" not in report.table(changed.results)
    assert guide_map.heat_map(changed) is None
    assert "Stages of the guide" not in Page(report.html(changed)).text


def test_data_in_words(run):
    facts = provenance.data_facts(
        {"data": {**run.results["data"], "python": "3.12", "bytes": {"a": 1}}}
    )
    assert list(facts)[:4] == ["name", "classes", "training examples", "of these in the share"]
    assert facts["sha256"] == "ab12" * 16 and facts["classes"] == "3: zero, one, <two>"
    assert facts["python"] == "3.12" and facts["bytes"] == "{'a': 1}"
    whole = {"data": {"train_examples": 5000, "guide_train_examples": 5000, "name": "d"}}
    assert provenance.data_line(whole) == "d, 5,000 training examples"
    read = {"data": {"name": "d", "passed_over": {"hidden files": 2, "blank": 0, "repeats": 1}}}
    assert provenance.data_line(read) == "d, passed over: 2 hidden files, 1 repeats"
    assert provenance.data_line({}) == "" and provenance.data_facts({"data": None}) == {}
    many = provenance.data_facts({"data": {"classes": list(range(1000))}})
    assert many == {"classes": f"1000: {', '.join(map(str, range(20)))}, ..."}


# the page


def test_page_says_what_was_found(document, run):
    shown = Page(document)
    for part in (
        *[
            "digits: classification on digits",
            "accuracy, higher is better · chance 10.0 % · cpu cpu",
        ],
        *["converted has 82.0 % ± 1.2", "Lines: seams", "Not in the map: pool = block_3."],
        *["Moving averages: of batch norm.", "3: zero, one, <two>", "ab12" * 16],
        "the training loss of converted, distilled, of which no cross-entropy was logged",
    ):
        assert part in shown.text, part
    ours = next(cells for cells in shown.cells if cells[:1] == ["converted"])
    assert ours[1] == "82.0 % ± 1.2" and ours[-1] == "80.00 82.00 84.00"
    assert document.count("<svg") == 5 and "<image" not in document
    assert all(address.startswith("#") for address in shown.addresses) and "http" not in document


def test_missing_parts_leave_no_empty_sections(run):
    def bare(results):
        for key in ("stages", "guide_similarity", "data", "chance", "claims"):
            results.pop(key)
        models = [
            {"name": "converted", "role": "ours", "value": 0.5},
            {"name": "guide", "value": None},
        ]
        results["models"] = models

    changed = edited(run, bare)._replace(rows=[])
    text = report.table(changed.results)
    assert row(text, "converted") == ["converted", "50.0 % one seed"] and "Stages" not in text
    shown = Page(report.html(changed)).text
    for part in (
        "Stages of the guide",
        "Features",
        "Cost of use",
        "chance",
        "Training",
        "Alignment",
    ):
        assert part not in shown, part


def test_the_similarity_is_a_table_too(document, run, monkeypatch):
    third = ["3", "block_2 = block_1"]
    assert third == next(c for c in Page(document).cells if c[:1] == ["3"])[:2]
    assert "details" in Page(document).tags and "The same in numbers" in Page(document).text
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    shown = Page(report.html(run))
    assert "svg" not in shown.tags and "The same in numbers" not in shown.text
    assert third == next(c for c in shown.cells if c[:1] == ["3"])[:2]


def test_hostile_names_are_escaped(tmp_path):
    def hostile(results):
        stages = results["guide_similarity"]["stages"]
        stages[2] = results["stages"][0]["guide_stage"] = "<b>$x$"
        results["stages"][0]["stage"] = results["data"]["name"] = "<script>bad()</script>"
        models_of(results)["fitnets"]["name"] = "<u>"

    rows = [json.loads(json.dumps(line).replace('"block_1"', '"<i>"')) for line in run_rows()]
    settings = CONFIG | {"guide": {"arch": "<q>"}}
    path = make_run(tmp_path / "<em>", edit=hostile, rows=rows, settings=settings)
    shown = Page(report.write(path).read_text(encoding="utf8"))
    assert not shown.tags & {"script", "b", "i", "u", "q", "em"}
    assert "<b>$x$ = <script>bad()</script>" in shown.text
    assert "guide: <q>;" in shown.text and "<i>" in shown.text


# pictures


def test_picture_of_hybrids(run, figure_of):
    (axes,) = drawn(seams.pictures(run), 1)
    lines = labelled(axes)
    assert list(lines["hybrid"].get_xdata()) == [1, 2, 3]
    assert list(lines["hybrid"].get_ydata()) == pytest.approx([87, 84.5, 74.5])
    assert list(lines["hybrid, moving averages"].get_ydata()) == pytest.approx([80, 51, 34])
    assert list(lines["hybrid, raw"].get_ydata()) == pytest.approx([12.5])
    dots = {li.get_color(): sorted(li.get_ydata()) for li in axes.lines if li.get_marker() == "o"}
    values = sorted(100 * v for pair in HYBRID for v in pair)
    assert dots[lines["hybrid"].get_color()] == pytest.approx(values)
    levels = {name: line.get_ydata()[0] for name, line in lines.items() if "(" in name}
    assert levels == {
        "guide (validation, one seed)": pytest.approx(91),
        "converted (validation)": pytest.approx(83),
        "from_scratch (validation)": pytest.approx(71),
    }
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert ticks == ["1\nblock_1", "2\nblock_2", "3\nblock_3"]


def test_hybrids_stand_against_test_scores_where_no_others_are_known(run, figure_of):
    (axes,) = drawn(seams.pictures(run._replace(rows=stage_rows())), 1)
    levels = {name: line.get_ydata()[0] for name, line in labelled(axes).items() if "(" in name}
    assert levels["guide (test)"] == pytest.approx(90)
    assert levels["converted (test)"] == pytest.approx(82)
    assert seams.hybrids(run._replace(rows=[])) is None


def test_picture_of_the_guide(run, figure_of):
    axes = guide_map.heat_map(run).axes[0]
    (mesh,) = axes.collections
    values = [value for line in cka(5) for value in line]
    assert mesh.get_array().reshape(-1).tolist() == pytest.approx(values)
    lines = {name: list(line.get_ydata()) for name, line in labelled(axes).items()}
    assert lines == {"block_2 = block_1": [3, 3], "block_4 = block_2": [5, 5]}
    crossing = [list(li.get_xdata()) for li in axes.lines if li.get_label().startswith("_")]
    assert crossing == [[3, 3], [5, 5]] and axes.get_ylim() == (5, 0)
    names = ["stem", "block_1", "block_2 = block_1", "block_3", "block_4 = block_2"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == names


def test_picture_of_a_guide_with_many_stages_and_gaps(run):
    matrix = cka(30)
    matrix[3][4], matrix[4][3] = None, -0.2
    table = {"stages": [f"block_{i}" for i in range(30)], "cka": matrix}
    svg = guide_map.heat_map(run._replace(results=run.results | {"guide_similarity": table}))
    assert "<image" not in svg and "block_29" in svg and "block_2 = block_1" in svg


def test_losses_of_models_without_a_cross_entropy(run, figure_of):
    task, _, own, _ = drawn(training.pictures(run))
    assert set(labelled(task)) == {"guide", "guide, test loss", "from_scratch"}
    expected = {"converted: distance, then kl + distance", "distilled: kl"}
    assert set(labelled(own)) == expected  # the others have no rows of training
    ends = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in task.lines
        if line.get_marker() == "D"
    }
    assert ends == {(200.0, 0.65), (200.0, 0.6), (200.0, 0.7)}
    ours = [line for line in own.lines if line.get_linewidth() == 2.2]
    assert [list(line.get_xdata()) for line in ours] == [[20, 40], [120, 200]]  # a line a phase


def test_distances(run):
    curves = series.distance_curves(run.rows, ["converted", "distilled"])
    steps = {name: [p.step for p in points] for name, points in curves.items()}
    assert steps == {"align": [20, 40], "finetune": [120, 200]}
    rows = [*train("a", "x", 10, distance=0.4), *train("b", "x", 10, distance=0.2)]
    assert set(series.distance_curves(rows, ["a", "b"])) == {"a, x", "b, x"}
    first = series.distance_curves(rows, ["a", "b"])["a, x"][0]
    assert (first.step, first.value) == (5, pytest.approx(0.41))  # the mean of three seeds


# side by side


def test_compare_classifications(tmp_path):
    def few(results):
        values = {"value": 0.75, "train_examples": 200, "labels": 200, "probe_accuracy": 0.5}
        models_of(results)["converted"].update(values)

    text = report.compare([make_run(tmp_path / "a"), make_run(tmp_path / "b", edit=few)])
    assert "gap: share of the accuracy between from_scratch and guide recovered" in text
    lines = {tuple(line.split()[:2]): line for line in text.splitlines()}
    header = "run model accuracy loss gap probe examples labels steps FLOPs params".split()
    assert lines["run", "model"].split() == header
    ours, other = lines["a", "converted"], lines["b", "converted"]
    assert "82.0 % +- 1.2" in ours and "60.0%" in ours and ours.split()[-7:-5] == ["5000", "0"]
    assert "25.0%" in other and "50.0 %" in other and other.split()[-7:-5] == ["200", "200"]


def test_compare_refuses_other_test_examples(tmp_path):
    def other(results):
        results["data"]["eval_examples"] = 500

    paths = make_run(tmp_path / "a"), make_run(tmp_path / "b", edit=other)
    message = refusal(lambda: report.compare(paths))
    assert "data.eval_examples is 1000 in a and 500 in b" in message
    assert report.compare(paths, anyway=True).startswith("Not comparable: data.eval_examples")


def test_the_words_of_the_report_are_explained_and_those_of_other_runs_left_out(run, document):
    told = dict(words.terms(run))
    models = {"guide", "from_scratch", "distilled", "fitnets", "supervised"}
    assert set(told) == {*models, "target", "seam", "hybrid", "stitch", "claim"}
    assert all([word, meaning] in Page(document).cells for word, meaning in told.items())

    def plain(results):
        results.update(stages=[], claims=[], models=[{"name": "ted_equal_flops", "value": 1.0}])

    assert set(dict(words.terms(edited(run, plain)))) == {"ted", "..._equal_flops"}
