"""report of runs of task "head": drawn coordinates and table cells against the rows they came from."""

from __future__ import annotations

import json
import math
import re
import statistics

import pytest
from test_report import Page, row

from theseus_jax import report
from theseus_jax.report import canvas, head_curves, head_figures, head_tables, heads, tables

EVERY = 10  # steps an epoch
SEEDS = 3
SELECTED = (3, 4, 4)  # epochs of each seed's selector, 4 at most; the end of the longest is not watched
SELECTOR, CONVERSION, EPOCH, SOLVE = 0.004, 0.05, 0.01, 0.02  # seconds
SCORES = {
    "mlp_sgd": (0.80, 0.90, 0.94),
    "mlp_reduced": (0.82, 0.93, 0.95),
    "linear_adam": (0.70, 0.85, 0.88, 0.89),
    "glai_path": (0.91, 0.93),
    "glai_joint": (0.92, 0.95, 0.96),
}
SOLVED = {"logistic": 0.90, "glai_joint_ridge": 0.955}
TEST = {
    "mlp_sgd": (0.93, 0.94, 0.95),
    "mlp_reduced": (0.94, 0.95, 0.96),
    "linear_adam": (0.88, 0.88, 0.88),
    "logistic": (0.90, 0.90, 0.90),
    "glai_path": (0.97, 0.98, 0.99),
    "glai_joint": (0.95, 0.97, 0.96),
    "glai_joint_ridge": (0.95, 0.95, 0.95),
}
ORDER = ["glai_path", "glai_joint", "glai_joint_ridge", "mlp_sgd", "mlp_reduced", "linear_adam", "logistic"]
RUN_ORDER = (
    "mlp_sgd",
    "linear_adam",
    "glai_path",
    "mlp_reduced",
    "logistic",
    "glai_joint",
    "glai_joint_ridge",
)
SETTLING = {0: (0.4, 0.2, 0.04), 1: (0.2, 0.15, 0.05), 2: (0.5, 0.25, 0.2)}


def selector_rows(arm, seed, tags):
    rows = []
    for epoch in range(1, SELECTED[seed] + 1):
        step = EVERY * epoch
        found = {"settling": SETTLING[seed][min(epoch, 3) - 1], "pattern_distance": 0.3 / epoch, "oui": 0.8}
        rows.append({"kind": "train", "phase": "selector", "step": step, "seconds": SELECTOR, **tags})
        if step < EVERY * max(SELECTED):
            rows.append({"kind": "maturity", "step": step, **tags, **found})
            rows.append({"kind": "score", "phase": "selector", "step": step, "score": 0.01, **tags})
    steps = EVERY * SELECTED[seed]
    rows.append({"kind": "phase", "phase": "selector", "optimizer_steps": steps, **tags})
    return [*rows, {**conversion(arm, seed), **tags}]


def conversion(arm, seed):
    return {
        "kind": "conversion",
        "model": arm,
        "seed": seed,
        "selection": "joint" if arm == "glai_joint" else "global",
        "seconds": CONVERSION,
        "rows": 100,
        "largest_logit_difference": (seed + 1) * 1e-6,
        "pruning_error": 10.0 + seed,
        "pruning_bound": 100.0 + 4 * seed,
    }


def arm_rows(arm, seed, **extra):
    tags = {"model": arm, "seed": seed, **extra}
    rows = selector_rows(arm, max(seed, 0), tags) if arm.startswith("glai") and arm in SCORES else []
    phase = "estimator" if arm.startswith("glai") else "train"
    for epoch, score in enumerate(SCORES.get(arm, ()), start=1):
        at = {"phase": phase, "step": EVERY * epoch, **tags}
        rows += [{"kind": "train", "seconds": EPOCH, "training_flops": 1e6, "loss": 1.0, **at}]
        rows += [{"kind": "score", "score": score + 0.002 * seed, **at}]
    if arm in SOLVED:
        rows.append({"kind": "solve", "seconds": SOLVE * (seed + 1), "iterations": 7, **tags})
    final = (SCORES.get(arm) or (SOLVED.get(arm),))[-1]
    return [*rows, {"kind": "model", "validation_score": final, "test_score": TEST[arm][seed], **tags}]


def run_rows(seeds):
    """A search (negative seeds, bad and slow) and the seeds of every arm."""
    rows = []
    for arm in RUN_ORDER:
        for found in arm_rows(arm, -1, trial=0):
            rows.append({**found, **{key: 9.0 for key in ("score", "seconds", "settling") if key in found}})
        for seed in range(seeds):
            rows += arm_rows(arm, seed)
    return rows


def model_record(arm, seeds):
    values = list(TEST[arm][:seeds])
    return {
        "name": arm,
        "value": statistics.fmean(values),
        "stderr": statistics.stdev(values) / math.sqrt(seeds) if seeds > 1 else 0.0,
        "seeds": values,
        "loss": 0.25,
        "losses": [0.25] * seeds,
        "validation_score": (SCORES.get(arm) or (SOLVED.get(arm),))[-1],
        "parameters": 1790,
        "flops_per_example": 4500.0,
        "latency_us": 35.0,
        "optimizer_steps": 30,
        "training_flops": None if arm in SOLVED else 3e6,
        "seconds": 0.0312,
        "seconds_seeds": [0.0312] * seeds,
        "step_us": None if arm in SOLVED else 250.0,
        "learning_rate": None if arm in SOLVED else 0.003,
        "decay": 1e-6 if arm in SOLVED else 0.1,
        "seconds_to_mlp_sgd": {"glai_joint": 0.085, "glai_path": 0.09, "linear_adam": None}.get(arm, 0.03),
        "seconds_to_mlp_sgd_seeds": [None] + [0.03] * (seeds - 1),
        "reached_mlp_sgd": seeds - 1,
    }


def run_results(seeds):
    return {
        "schema": 1,
        "task": "head",
        "metric": "accuracy",
        "higher_is_better": True,
        "chance": 0.1,
        "data": {"name": "digits", "sha256": "ab" * 32, "train_examples": 100},
        "models": [model_record(arm, seeds) for arm in RUN_ORDER],
        "stages": [],
        "budget": {
            "original": 19210,
            "reduced": 9610,
            "paths": 83210,
            "kept": 9600,
            "share": 9600 / 83210,
            "pairs": 960,
            "density": 0.1171875,
        },
        "declared": {"mlp_sgd": 0.94},
        "conversions": [
            conversion(arm, seed) for arm in ("glai_path", "glai_joint") for seed in range(seeds)
        ],
        "selector_epochs": {arm: list(SELECTED[:seeds]) for arm in ("glai_path", "glai_joint")},
        "claims": [
            {"text": "glai_joint scores better than mlp_sgd", "holds": False, "measured": "0.96 against 0.94"}
        ],
        "device": "cpu",
        "seconds_total": 60.0,
    }


CONFIG = {"task": "head", "glai": {"selector": "maturity", "selector_epochs": 4, "settled_share": 0.1}}


def make_run(path, *, seeds=SEEDS, edit=lambda results: None, settings=CONFIG):
    """A workdir as a finished run of heads leaves it; `edit` changes results.json first."""
    path.mkdir(parents=True)
    results = run_results(seeds)
    edit(results)
    (path / "config.json").write_text(json.dumps(settings))
    (path / "plan.txt").write_text("features: 64 wide\n")
    (path / "versions.json").write_text(json.dumps({"jax": "0.10.2"}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in run_rows(seeds)))
    (path / "results.json").write_text(json.dumps(results))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return report.read_run(make_run(tmp_path_factory.mktemp("runs") / "heads"))


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def cells(grid, name):
    return next(row for row in grid.rows if name in row[: grid.names])


# tables


def test_scores_stand_in_families_with_the_right_numbers(run):
    grid = head_tables.score_grid(run.results)
    assert [row[1] for row in grid.rows] == ORDER
    assert [row[0] for row in grid.rows] == ["GLAI", "", "", "MLP", "", "linear", ""]
    error = 0.01 / math.sqrt(3)
    assert cells(grid, "glai_joint")[2:] == (f"0.9600 +- {error:.4f}", "0.250", "1.79 k", "30", "3.00 M")
    assert cells(grid, "logistic")[2:] == ("0.9000 +- 0.0000", "0.250", "1.79 k", "30", "-")


def test_terminal_table(run):
    text = report.table(run.results)
    assert max(map(len, text.splitlines())) <= 100 and text.isascii()
    assert not re.search("state bytes|token|guide|stage", text)
    speed, rest = text.split("Speed:")[1].split("Conversions:")
    assert "(mlp_sgd 0.9400)" in speed.replace("\n", " ")
    assert row(speed, "glai_joint") == ["glai_joint", "0.003", "0.1", "250 us", "31.2 ms", "85.0 ms"]
    assert row(speed, "logistic") == ["logistic", "-", "1e-06", "-", "31.2 ms", "30.0 ms"]
    assert row(speed, "linear_adam")[-1] == "2 of 3"
    conversions, costs = rest.split("Costs of use: one example, medians\n")
    expected = ["glai_path", "global", "3", "3.0e-06", "11.00", "104.00", "50.0 ms", "3 to 4"]
    assert row(conversions, "glai_path") == expected and row(conversions, "glai_joint")[1] == "joint"
    assert "GLAI budget: O 19,210  R 9,610  E 83,210  K 9,600  mu 11.54%  P 960 (11.72%)\n" in conversions
    assert [line.split()[0] for line in costs.splitlines()[2:9]] == ORDER
    assert row(costs, "glai_path") == ["glai_path", "1.79 k", "4.50 k", "35 us"]
    assert "FAILS  glai_joint scores better than mlp_sgd" in text


def test_error_of_equal_seeds_is_nought_whatever_rounding_left():
    assert tables.score({"metric": "accuracy"}, 0.947, 5.6e-17, 5) == "0.9470 +- 0.0000"
    assert tables.score({"metric": "accuracy"}, 0.947, 1e-5, 5) == "0.94700 +- 0.00001"


def test_conversions_with_nan_and_without_receipts():
    rows = [conversion("glai_path", seed) for seed in range(2)]
    rows[1]["largest_logit_difference"] = rows[1]["pruning_error"] = float("nan")
    bare = {"model": "glai_untrained", "selection": "joint", "seconds": 0.5}
    grid = head_tables.conversion_grid({"conversions": [*rows, bare]})
    assert grid.header[-1] == "time"  # no epochs are recorded
    assert cells(grid, "glai_path") == ("glai_path", "global", "2", "nan", "nan", "102.00", "50.0 ms")
    assert cells(grid, "glai_untrained") == ("glai_untrained", "joint", "1", "-", "-", "-", "500 ms")


# comparisons


def test_the_best_are_chosen_by_validation_and_compared_seed_by_seed(run):
    found = heads.difference(run.results)
    assert (found.ours["name"], found.rival["name"]) == (
        "glai_joint",
        "mlp_reduced",
    )  # glai_path has a better test
    pairs = [0.95 - 0.94, 0.97 - 0.95, 0.96 - 0.96]
    assert found.judged.mean == pytest.approx(0.01) and found.judged.count == 3
    assert found.judged.half == pytest.approx(4.302653 * statistics.stdev(pairs) / math.sqrt(3))  # t of 2 degrees
    assert heads.verdict(found) == "an interval that holds 0, so these seeds do not tell them apart"


def compared(ours, rival, higher=True):
    models = [
        {"name": "glai_joint", "value": 1.0, "seeds": ours},
        {"name": "mlp_sgd", "value": 1.0, "seeds": rival},
    ]
    return heads.difference({"metric": "x", "higher_is_better": higher, "models": models})


def test_differences_are_decided_either_way_by_the_rule_of_the_claims():
    ours, rival = [0.90, 0.91, 0.92], [0.80, 0.82, 0.81]
    assert heads.verdict(compared(ours, rival)) == "an interval without 0, so glai_joint is better"
    assert (
        heads.verdict(compared(ours, rival, higher=False))
        == "an interval without 0, so mlp_sgd is better"
    )
    found = compared([0.3, 0.3], [0.2, 0.1], higher=False).judged  # 0.15 with an error of 0.05: three errors, two seeds
    assert found.mean == pytest.approx(-0.15) and found.half == pytest.approx(12.7062 * 0.05, rel=1e-4)
    assert found.verdict == compared([0.5, 0.5], [0.5, 0.5]).judged.verdict == "undecided"


def test_small_differences_have_the_decimals_their_error_needs():
    found = compared([0.002700, 0.002710, 0.002721], [0.003000, 0.003012, 0.003019])  # 2e-6 apart, t is 4.3
    assert heads.difference_text(found) == "-0.000300 +- 0.000005"
    assert heads.difference_text(found, signed=False) == "0.000300 +- 0.000005"
    assert heads.difference_text(compared([0.6], [0.5])) == "+0.1000"


def test_differences_without_enough_seeds():
    assert (
        compared([float("nan")], [0.5]) is None
        and compared([], [0.5]) is None
        and compared(None, [0.5]) is None
    )
    assert compared([0.6, None, 0.7], [0.5, 0.5, float("nan")]).judged.count == 1
    assert "one seed decides nothing" in heads.verdict(compared([0.6], [0.5]))
    assert heads.difference({"models": [{"name": "glai_joint", "value": 1.0, "seeds": [1.0]}]}) is None


def test_best_without_validation_scores_is_by_the_test_score():
    models = [
        {"name": "glai_joint", "value": 0.4},
        {"name": "glai_path", "value": 0.3},
        {"name": "x", "value": math.nan},
    ]
    assert heads.best({"models": models, "higher_is_better": True}, True)["name"] == "glai_joint"
    assert heads.best({"models": models, "higher_is_better": False}, True)["name"] == "glai_path"
    assert heads.best({"models": models}, False) is None


def test_declared_scores_that_are_equal_are_one():
    results = {"declared": {"mlp_sgd": 0.5, "mlp_adam": 0.75, "c": 0.5, "d": None}}
    assert heads.declared(results) == [(["mlp_adam"], 0.75), (["mlp_sgd", "c"], 0.5)]
    assert (
        heads.declared_text(results) == "mlp_adam 0.7500, mlp_sgd and c 0.5000" and heads.declared({}) == []
    )


@pytest.mark.parametrize(
    "arm, family",
    [
        ("glai_x", "GLAI"),
        ("mlp_x", "MLP"),
        ("low_rank", "MLP"),
        ("linear_sgd", "linear"),
        ("ridge", "linear"),
        ("svm", "other"),
    ],
)
def test_family(arm, family):
    assert heads.family(arm) == family


# curves


def test_score_curves_count_selector_and_conversion_and_leave_the_search_out(run):
    curves = head_curves.score_curves(run.rows, "glai_joint")
    assert list(curves) == [0, 1, 2]
    for seed, points in curves.items():
        begin = SELECTED[seed] * SELECTOR + CONVERSION
        assert list(points) == [10, 20, 30]
        assert [p.seconds for p in points.values()] == pytest.approx([begin + EPOCH * k for k in (1, 2, 3)])
        assert [p.score for p in points.values()] == pytest.approx(
            [s + 0.002 * seed for s in SCORES["glai_joint"]]
        )
    # its selector was watched at step 30 too
    assert list(head_curves.score_curves(run.rows, "glai_path")[1]) == [10, 20]
    plain = head_curves.score_curves(run.rows, "mlp_sgd")
    assert [p.seconds for p in plain[2].values()] == pytest.approx([0.01, 0.02, 0.03])
    mean = head_curves.mean_curve(curves)
    assert mean[0].seconds == pytest.approx(0.0746667, abs=1e-6) and mean[0].score == pytest.approx(0.922)


def test_solvers_are_points_that_count_the_paths_they_read(run):
    assert [c.seconds for c in head_curves.solved(run.rows, "logistic")] == pytest.approx([0.02, 0.04, 0.06])
    ridge = head_curves.solved(run.rows, "glai_joint_ridge")
    expected = [SELECTED[seed] * SELECTOR + CONVERSION + SOLVE * (seed + 1) for seed in range(3)]
    assert [c.seconds for c in ridge] == pytest.approx(expected) and {c.score for c in ridge} == {0.955}
    assert head_curves.solved(run.rows, "mlp_sgd") == []


def test_a_mean_ends_with_the_shortest_seed_and_skips_what_is_not_finite():
    def rows(seed, scores):
        for step, score in enumerate(scores, start=1):
            tags = {"model": "a", "seed": seed, "phase": "train", "step": step}
            yield from ({"kind": "train", "seconds": 1.0, **tags}, {"kind": "score", "score": score, **tags})

    curves = head_curves.score_curves([*rows(0, [0.1, math.nan, 0.3, 0.4]), *rows(1, [0.3, 0.4, 0.5])], "a")
    assert list(curves[0]) == [1, 3, 4]
    assert head_curves.mean_curve(curves) == [(1.0, pytest.approx(0.2)), (3.0, pytest.approx(0.4))]
    assert head_curves.mean_curve({}) == []


def test_settling_is_over_the_largest_of_each_seed_and_ends_where_the_phase_did(run):
    found = head_curves.settling(run.rows)
    assert found.model == "glai_joint" and found.ends == {0: 3, 1: 4, 2: 4}
    assert sorted(found.values["settling"]) == [1, 2, 3]
    assert found.values["settling"][1] == [1.0, 1.0, 1.0]
    assert found.values["settling"][3] == pytest.approx([0.1, 0.25, 0.4])
    assert found.values["pattern_distance"][2] == pytest.approx([0.15] * 3)
    paths = [row for row in run.rows if row.get("model") != "glai_joint"]
    assert head_curves.settling(paths).model == "glai_path" and head_curves.settling([]) is None


# pictures


def test_score_picture(run, figure_of):
    figure = head_figures.scores(run)
    glai, mlp, linear = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["GLAI arms", "MLP arms", "linear arms"]
    assert (
        list(lines(glai)) == ORDER[:3] and list(lines(mlp)) == ORDER[3:5] and list(lines(linear)) == ORDER[5:]
    )
    joint = lines(glai)["glai_joint"]
    begin = statistics.fmean(SELECTED) * SELECTOR + CONVERSION
    assert list(joint.get_xdata()) == pytest.approx([begin + EPOCH * k for k in (1, 2, 3)])
    assert list(joint.get_ydata()) == pytest.approx([score + 0.002 for score in SCORES["glai_joint"]])
    thin = [
        line
        for line in glai.lines
        if line.get_color() == canvas.color("glai_joint") and line.get_alpha() == 0.28
    ]
    assert [line.get_ydata()[-1] for line in thin] == pytest.approx([0.96, 0.962, 0.964])
    ridge = lines(glai)["glai_joint_ridge"]
    assert ridge.get_linestyle() == "None" and list(ridge.get_ydata()) == [0.955] * 3
    ticks = [line for line in glai.lines if list(line.get_ydata()) == [0, 0.05]]
    assert [line.get_xdata()[0] for line in ticks] == pytest.approx(
        [begin] * 2
    )  # of glai_path and glai_joint
    for axes in figure.axes:
        assert axes.get_xscale() == "log" and axes.get_xlabel() == "seconds of training"
        assert sum(list(line.get_ydata()) == [0.94, 0.94] for line in axes.lines) == 1
        assert axes.get_xlim()[0] < 0.01 and axes.get_xlim()[1] > SELECTOR * 4 + CONVERSION + 0.06
        assert axes.get_ylim()[0] < 0.90 and axes.get_ylim()[1] > 0.964
    assert glai.get_ylabel() == "validation accuracy"
    grey = [line for line in linear.lines if line.get_color() == canvas.INK and line.get_alpha() == 0.16]
    assert any(
        list(line.get_ydata()) == pytest.approx(list(joint.get_ydata()))
        for line in grey
        if len(line.get_ydata())
    )


@pytest.mark.parametrize("second", [None, 0.94, 0.9399])
def test_no_words_of_the_score_picture_overlap(run, figure_of, second):
    declared = {"mlp_sgd": 0.94} | ({"mlp_adam": second} if second else {})
    figure = head_figures.scores(run._replace(results=run.results | {"declared": declared}))
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawn = FigureCanvasAgg(figure)
    drawn.draw()
    renderer, boxes = drawn.get_renderer(), []
    for axes in figure.axes:
        words = [
            axes.xaxis.label,
            axes.yaxis.label,
            axes._left_title,
            *axes.texts,
            *axes.get_legend().get_texts(),
        ]
        low, high = axes.get_xlim()
        words += [tick.label1 for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        low, high = axes.get_ylim() if axes is figure.axes[0] else (1.0, 0.0)
        words += [tick.label1 for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        boxes += [
            (word.get_text(), word.get_window_extent(renderer))
            for word in words
            if word.get_text() and word.get_visible()
        ]
        for word in (*axes.texts, *axes.get_legend().get_texts()):
            assert not axes.bbox.overlaps(word.get_window_extent(renderer).shrunk(0.95, 0.95))  # over no data
    assert len(boxes) > 15
    assert all(
        box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
        for _, box in boxes
    )
    for i, (one, a) in enumerate(boxes):
        assert not [
            other for other, b in boxes[i + 1 :] if a.shrunk(0.9, 0.9).overlaps(b.shrunk(0.9, 0.9))
        ], one


def test_selector_picture(run, figure_of):
    upper, lower = head_figures.selector(run).axes
    drawn = lines(upper)
    assert list(drawn) == ["path change m_t, over its largest", "pattern distance", "OUI"]
    path = drawn["path change m_t, over its largest"]
    assert list(path.get_xdata()) == [1, 2, 3]
    assert list(path.get_ydata()) == pytest.approx([1.0, (0.5 + 0.75 + 0.5) / 3, 0.25])
    assert list(drawn["pattern distance"].get_ydata()) == pytest.approx([0.3, 0.15, 0.1])
    band = upper.collections[0].get_paths()[0].vertices
    assert sorted({round(y, 6) for x, y in band if x == 3}) == [0.1, 0.4]
    assert any(list(line.get_ydata()) == [0.1, 0.1] for line in upper.lines)  # the rule
    bars = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in lower.patches}
    assert bars == {3.0: 1, 4.0: 2} and lower.get_xlabel() == "epochs of glai_joint's selector"
    fixed = run._replace(config={"glai": {"selector": "epochs", "settled_share": 0.1}})
    assert not any(
        list(line.get_ydata()) == [0.1, 0.1] for line in head_figures.selector(fixed).axes[0].lines
    )


def test_a_contrast_run_has_scores_below_nought(run, figure_of):
    rows = [row | ({"score": row["score"] - 1} if "score" in row else {}) for row in run.rows]
    results = run.results | {"metric": "loss", "higher_is_better": False, "declared": {"mlp_sgd": -0.06}}
    figure = head_figures.scores(run._replace(rows=rows, results=results))
    assert figure.axes[0].get_ylabel() == "validation score (minus the loss)"
    assert list(lines(figure.axes[1])["mlp_sgd"].get_ydata()) == pytest.approx([-0.198, -0.098, -0.058])
    lead = report.page.summary(run._replace(results=results))
    assert "To the validation score (minus the loss) that every seed of mlp_sgd reaches, -0.0600, the" in lead
    assert "0.0100 +- 0.0248 in favour of mlp_reduced" in lead  # whose loss is lower
    terminal = " ".join(report.table(results).split())
    assert "score (minus the loss) that every seed of a model reaches (mlp_sgd -0.0600)" in terminal
    grid = head_tables.score_grid(results)
    assert grid.header == ("family", "model", "loss", "params", "steps", "FLOPs")
    assert cells(grid, "glai_joint")[2] == "0.9600 +- 0.0058"


def test_many_seeds_are_a_range_and_ten_thin_lines(run, figure_of):
    rows = [row | {"seed": 3 * k + row["seed"]} for row in run.rows if row["seed"] >= 0 for k in range(5)]
    results = json.loads(json.dumps(run.results))
    for model in results["models"]:
        model["seeds"] = [0.5 + 0.01 * k for k in range(15)]
    many = run._replace(rows=rows, results=results)
    mlp = head_figures.scores(many).axes[1]
    thin = [
        line for line in mlp.lines if line.get_color() == canvas.color("mlp_sgd") and line.get_alpha() == 0.28
    ]
    assert len(thin) == head_figures.SEEDS == 10
    assert "0.5000 to 0.6400" in report.page.head_page.results_section(results)


# the page


def test_page_says_what_was_found(run):
    document = report.html(run)
    page = Page(document)
    assert re.findall("<h2>(.*?)</h2>", document) == [
        "Claims",
        "Results",
        "Training",
        "Conversions and budget",
        "Cost of use",
        "Where this comes from",
    ]
    lead = re.search('<p class="lead">(.*?)</p>', document)[1]
    for words in (
        "7 heads were trained on the same features of digits, each with 3 seeds.",
        "Best by validation score are glai_joint among the GLAI arms, with a test accuracy of "
        "0.9600 ± 0.0058, and mlp_reduced among the rivals, with 0.9500 ± 0.0058.",
        "The difference is 0.0100 +- 0.0248 in favour of glai_joint (95 % over 3 paired seeds): an interval that",
        "To the validation score that every seed of mlp_sgd reaches, 0.9400, the fastest GLAI arm "
        "(glai_joint_ridge) takes 30.0 ms, the fastest rival (mlp_sgd) takes 30.0 ms.",
    ):
        assert words in lead, words
    assert "heads: GLAI and its rivals on digits" in page.text and "1 of 1" not in page.text
    assert not re.search(r"guide|token|align|converted|hybrid|No stage|No gap", page.text)
    assert document.count("<svg") == 2 and "Seeds ended after 3, 4, 4 epochs" in page.text
    assert "after 4 epochs (as 2 of 3). Selectors of glai_path ended alike." in page.text
    assert ["K", "path weights that may be kept, O - R", "9,600"] in page.cells
    ours = next(cells for cells in page.cells if "glai_joint" in cells)
    assert (
        ours[-1] == "0.9500 0.9700 0.9600"
        and '<tr class="ours"><td class="name"></td><td class="name">glai_joint<' in document
    )


def test_page_stands_alone(run):
    document = report.html(run)
    page = Page(document)
    assert all(address.startswith("#") for address in page.addresses)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"} and "http" not in document


def test_time_to_a_score_that_no_glai_arm_reaches(run):
    results = json.loads(json.dumps(run.results))
    for model in results["models"]:
        if model["name"].startswith("glai"):
            model["seconds_to_mlp_sgd"] = None
    text = report.page.summary(run._replace(results=results))
    assert text.endswith("the fastest rival (mlp_sgd) takes 30.0 ms, no GLAI arm gets there in every seed.")


def hostile(results):
    results["data"]["name"] = "<script>bad()</script>"
    results["declared"] = {"<u>$d$": 0.94}
    results["conversions"][0]["selection"] = "<b>&"
    for model in results["models"]:
        model["name"] = "<u>$d$" if model["name"] == "mlp_sgd" else model["name"]


def test_hostile_text_is_escaped(tmp_path):
    path = make_run(tmp_path / "<em>", edit=hostile)
    rows = (path / "metrics.jsonl").read_text().replace('"mlp_sgd"', '"<u>$d$"')
    (path / "metrics.jsonl").write_text(rows)
    page = Page(report.write(path).read_text(encoding="utf8"))
    assert not page.tags & {"script", "u", "b", "em"} and "<script>bad()</script>" in page.text
    assert "<b>&" in "".join(sum(page.cells, [])) and "<u>$d$'s" in page.text  # the declared line's name
    assert page.words.count("<u>$d$") >= 3  # two tables and a legend


def test_one_seed(tmp_path):
    run = report.read_run(make_run(tmp_path / "run", seeds=1))
    text = " ".join(report.table(run.results).split())
    assert cells(head_tables.score_grid(run.results), "glai_joint")[2] == "0.9500 one seed"
    assert "+0.0100 over 1 paired seed; one seed decides nothing" in text and "+-" not in text
    page = Page(report.html(run))
    assert "each with one seed" in page.text and "They differ by 0.0100; one seed decides" in page.text
    assert "The seed ended after 3 epochs" in page.text and "svg" in page.tags


RESULT_KEYS = [
    "declared",
    "conversions",
    "selector_epochs",
    "budget",
    "data",
    "chance",
    "claims",
    "higher_is_better",
]
MODEL_KEYS = [
    "value",
    "stderr",
    "seeds",
    "validation_score",
    "seconds_to_mlp_sgd",
    "seconds_to_mlp_sgd_seeds",
    "reached_mlp_sgd",
    "step_us",
    "learning_rate",
    "decay",
    "seconds",
    "parameters",
    "loss",
]
ROW_VALUES = [("seconds", None), ("score", math.nan), ("settling", math.nan), ("validation_score", math.nan)]
ROW_VALUES += [
    (key, "gone") for key in ("seconds", "score", "step", "phase", "seed", "optimizer_steps", "kind")
]


def replaced(tree, key, value):
    """The dict without the key, or with another value where it has the key."""
    rest = {k: v for k, v in tree.items() if k != key}
    return rest | ({key: value} if key in tree and value != "gone" else {})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("key", RESULT_KEYS + MODEL_KEYS)
def test_results_without_a_key(run, key):
    for value in ("gone", None, math.nan):
        models = [
            model
            if value != "gone" and value is not None and isinstance(model.get(key), list)
            else replaced(model, key, value)
            for model in run.results["models"]
        ]
        whole = replaced(
            run.results, key, "gone" if isinstance(run.results.get(key), (dict, list)) else value
        )
        results = whole | {"models": models}
        assert "glai_joint" in report.table(results)
        drawn = value == "gone" and key in ("declared", "higher_is_better", "selector_epochs")
        page = Page(report.html(run._replace(results=results, rows=run.rows if drawn else [])))
        assert "table" in page.tags and ("svg" in page.tags) == drawn


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("key, value", ROW_VALUES)
def test_rows_without_a_key(run, key, value):
    rows = [replaced(row, key, value) for row in run.rows]
    assert Page(report.html(run._replace(rows=rows))).tags >= {"table"}


def test_no_rows_no_pictures_no_section(run):
    document = report.html(run._replace(rows=[]))
    assert "<svg" not in document and "<h2>Training" not in document and "<figure" not in document


def test_comparing_runs_of_heads_says_nothing_of_a_guide(tmp_path):
    runs = [make_run(tmp_path / name) for name in "ab"]
    text = report.compare(runs)
    assert "guide" not in text and "gap" not in text
    page = Page(report.compare_html(runs, tmp_path / "c.html").read_text(encoding="utf8"))
    assert "guide" not in page.text and sum("glai_joint" in row for row in page.cells) == 2
