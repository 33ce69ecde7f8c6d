"""report of comparisons of heads: drawn coordinates and cells against the rows they came from."""

from __future__ import annotations

import json
import math
import re
import statistics

import pytest
from test_report import Page, drawn, edited, flat, labelled, row

from theseus_jax import report
from theseus_jax.report import canvas, series, standing
from theseus_jax.report.panels import conversions, lead, scores, selector, training

pytestmark = pytest.mark.slow

EVERY = 10  # steps an epoch
SEEDS = 3
SELECTED = (
    3,
    4,
    4,
)  # epochs of each seed's selector, 4 at most; the end of the longest is not watched
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
ORDER = [
    "glai_path",
    "glai_joint",
    "glai_joint_ridge",
    "mlp_sgd",
    "mlp_reduced",
    "linear_adam",
    "logistic",
]
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
        found = {
            "settling": SETTLING[seed][min(epoch, 3) - 1],
            "pattern_distance": 0.3 / epoch,
            "oui": 0.8,
        }
        rows.append(
            {"kind": "train", "phase": "selector", "step": step, "seconds": SELECTOR, **tags}
        )
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
    rows = (
        selector_rows(arm, max(seed, 0), tags) if arm.startswith("glai") and arm in SCORES else []
    )
    phase = "estimator" if arm.startswith("glai") else "train"
    for epoch, score in enumerate(SCORES.get(arm, ()), start=1):
        at = {"phase": phase, "step": EVERY * epoch, **tags}
        rows += [{"kind": "train", "seconds": EPOCH, "training_flops": 1e6, "loss": 1.0, **at}]
        rows += [{"kind": "score", "score": score + 0.002 * seed, **at}]
    if arm in SOLVED:
        rows.append({"kind": "solve", "seconds": SOLVE * (seed + 1), "iterations": 7, **tags})
    final = (SCORES.get(arm) or (SOLVED.get(arm),))[-1]
    return [
        *rows,
        {"kind": "model", "validation_score": final, "test_score": TEST[arm][seed], **tags},
    ]


def run_rows(seeds):
    """A search (negative seeds, bad and slow) and the seeds of every arm."""
    rows = []
    for arm in RUN_ORDER:
        for found in arm_rows(arm, -1, trial=0):
            rows.append(
                {**found, **{key: 9.0 for key in ("score", "seconds", "settling") if key in found}}
            )
        for seed in range(seeds):
            rows += arm_rows(arm, seed)
    return rows


def seconds_of(arm, seed):
    """All the time of a seed; that of a solver of paths counts the selector that chose them."""
    if arm in SOLVED:
        before = SELECTED[seed] * SELECTOR + CONVERSION if arm == "glai_joint_ridge" else 0.0
        return before + SOLVE * (seed + 1)
    return 0.0312


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
        "seconds_seeds": [seconds_of(arm, seed) for seed in range(seeds)],
        "step_us": None if arm in SOLVED else 250.0,
        "learning_rate": None if arm in SOLVED else 0.003,
        "decay": 1e-6 if arm in SOLVED else 0.1,
        "seconds_to_mlp_sgd": (
            {"glai_joint": 0.085, "glai_path": 0.09, "linear_adam": None}.get(arm, 0.03)
        ),
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
            {
                "text": "glai_joint scores better than mlp_sgd",
                "holds": False,
                "measured": "0.96 against 0.94",
            }
        ],
        "device": "cpu",
        "seconds_total": 60.0,
    }


CONFIG = {
    "task": "head",
    "glai": {"selector": "maturity", "selector_epochs": 4, "settled_share": 0.1},
}


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


def cells(grid, name):
    return next(row for row in grid.rows if name in row[: grid.names])


# tables


def test_scores_stand_in_families_with_the_right_numbers(run):
    grid = scores.score_grid(run.results)
    assert grid.header == (
        *("family", "model", "accuracy", "loss", "steps", "FLOPs", "time", "each seed (%)"),
    )
    assert [row[1] for row in grid.rows] == ORDER
    assert [row[0] for row in grid.rows] == ["GLAI", "", "", "MLP", "", "linear", ""]
    joint = ("96.0 % +- 0.6", "0.2500", "30", "3.00 M", "31.2 ms", "95.00 97.00 96.00")
    assert cells(grid, "glai_joint")[2:] == joint and grid.bold == ("glai_joint",)
    assert cells(grid, "logistic")[2:6] == ("90.0 % +- 0.0", "0.2500", "30", "-")


def test_families_and_roles_come_from_the_record_not_from_a_name(run):
    def edit(results):
        for model in results["models"]:
            model.update(role="rival", family="new" if model["name"] == "mlp_sgd" else "old")
        results["models"][0].update(role="ours")

    changed = edited(run, edit)
    grid = scores.score_grid(changed.results)
    assert grid.rows[0][:2] == ("new", "mlp_sgd") and {row[0] for row in grid.rows[2:]} == {""}
    assert grid.bold == ("mlp_sgd",)
    assert "mlp_sgd and glai_joint differ by 2.0 +- 2.5 points" in flat(lead.words(changed)[0])


def test_terminal_table(run):
    text = report.table(run.results)
    assert max(map(len, text.splitlines())) <= 100 and text.isascii()
    assert not re.search("state|token|guide|stage", text)
    speed, rest = text.split("What the search chose, and speed")[1].split("Conversions and budget")
    assert "(mlp_sgd 94.00 %)" in flat(speed)
    assert row(speed, "model") == ["model", "rate", "decay", "1 step", "to mlp_sgd's"]
    assert row(speed, "glai_joint") == ["glai_joint", "0.003", "0.1", "250 us", "85.0 ms"]
    assert row(speed, "logistic") == ["logistic", "-", "1e-06", "-", "30.0 ms"]
    assert row(speed, "linear_adam")[-1] == "2 of 3"
    shown, costs = rest.split("Cost of use")
    expected = ["glai_path", "global", "3", "3.0e-06", "11.00", "104.00", "50.0 ms", "3 to 4"]
    assert row(shown, "glai_path") == expected and row(shown, "glai_joint")[1] == "joint"
    budget = dict(O="19,210", R="9,610", E="83,210", K="9,600", mu="11.5 %", P="960")
    assert {letter: row(shown, letter)[-1] for letter in budget} == budget
    assert re.search(r"their share +11\.7 %", shown)
    assert row(costs, "glai_path") == ["glai_path", "1.79 k", "4.50 k", "35 us"]
    assert "FAILS  glai_joint scores better than mlp_sgd" in text


def test_a_choice_at_the_edge_is_marked(run):
    def edit(results):
        results["models"][0]["at_edge"], results["models"][1]["at_edge"] = True, False

    grid = scores.speed_grid(edited(run, edit).results)
    at = grid.header.index("at edge")
    assert {row[0]: row[at] for row in grid.rows if row[at] != "-"} == {"mlp_sgd": "yes"}


def test_conversions_with_nan_and_without_receipts(run):
    rows = [conversion("glai_path", seed) for seed in range(2)]
    rows[1]["largest_logit_difference"] = rows[1]["pruning_error"] = math.nan
    bare = {"model": "glai_untrained", "selection": "joint", "seconds": 0.5}
    results = run.results | {"conversions": [*rows, bare], "selector_epochs": None, "budget": None}
    grid, budget = conversions.grids(run._replace(results=results))
    assert grid.header[-1] == "time" and budget.rows == []  # no epochs are recorded
    path = ("glai_path", "global", "2", "nan", "nan", "102.00", "50.0 ms")
    assert cells(grid, "glai_path") == path
    assert cells(grid, "glai_untrained") == (
        "glai_untrained",
        "joint",
        "1",
        "-",
        "-",
        "-",
        "500 ms",
    )


# comparisons


def test_the_best_are_chosen_by_validation_and_compared_seed_by_seed(run):
    ours, rival, judged = standing.difference(run.results)
    assert (ours["name"], rival["name"]) == ("glai_joint", "mlp_reduced")  # not by the test
    pairs = [0.95 - 0.94, 0.97 - 0.95, 0.96 - 0.96]
    assert judged.mean == pytest.approx(0.01) and judged.count == 3
    assert judged.half == pytest.approx(4.302653 * statistics.stdev(pairs) / math.sqrt(3))


def test_declared_scores_that_are_equal_are_one():
    results = {"declared": {"mlp_sgd": 0.5, "mlp_adam": 0.75, "c": 0.5, "d": None}}
    assert standing.declared(results) == [(["mlp_adam"], 0.75), (["mlp_sgd", "c"], 0.5)]
    assert standing.declared({}) == []


def test_lead(run):
    text = flat(lead.words(run)[0])
    for words in (
        "7 models compared, with 3 seeds each, on digits, 100 training examples.",
        (
            "glai_joint, the best of 3 models of the method by validation score, has 96.0 % +- 0.6;"
            " mlp_reduced, the best of 4 rivals by validation score, has 95.0 % +- 0.6."
        ),
        (
            "glai_joint and mlp_reduced differ by 1.0 +- 2.5 points in favour of glai_joint (95 %"
            " over 3 paired seeds): an interval that holds 0, so these seeds do not tell them"
            " apart."
        ),
        (
            "To the validation score that every seed of mlp_sgd reaches, 94.00 %, the fastest of"
            " the method (glai_joint_ridge) takes 30.0 ms, the fastest rival (mlp_sgd) takes"
            " 30.0 ms."
        ),
    ):
        assert words in text, words
    assert not re.search("guide|target|gap", text) and text in flat(report.table(run.results))


def test_time_to_a_score_that_none_of_ours_reaches(run):
    def edit(results):
        for model in results["models"]:
            if model["role"] == "ours":
                model["seconds_to_mlp_sgd"] = None
            if model["name"] == "logistic":
                model["seconds_to_mlp_sgd"] = 0.01

    text = lead.words(edited(run, edit))[0]
    assert text.endswith(
        "the fastest rival (logistic) takes 10.0 ms, mlp_sgd itself takes 30.0 ms, no model of the "
        "method gets there in every seed."
    )


# curves


def test_score_curves_count_selector_and_conversion_and_leave_the_search_out(run):
    curves = series.score_curves(run.rows, "glai_joint")
    assert list(curves) == [0, 1, 2]
    for seed, points in curves.items():
        begin = SELECTED[seed] * SELECTOR + CONVERSION
        assert list(points) == [10, 20, 30]
        times = [begin + EPOCH * k for k in (1, 2, 3)]
        assert [p.seconds for p in points.values()] == pytest.approx(times)
        values = [s + 0.002 * seed for s in SCORES["glai_joint"]]
        assert [p.score for p in points.values()] == pytest.approx(values)
    # its selector was watched at step 30 too
    assert list(series.score_curves(run.rows, "glai_path")[1]) == [10, 20]
    mean = series.mean_curve(curves)
    assert mean[0].seconds == pytest.approx(0.0746667, abs=1e-6)
    assert mean[0].score == pytest.approx(0.922)


def test_solvers_are_points_after_all_their_time(run):
    named = {model["name"]: model for model in run.results["models"]}
    times = [c.seconds for c in series.solved(run.rows, named["logistic"])]
    assert times == pytest.approx([0.02, 0.04, 0.06])
    ridge = series.solved(run.rows, named["glai_joint_ridge"])
    expected = [SELECTED[s] * SELECTOR + CONVERSION + SOLVE * (s + 1) for s in range(3)]
    assert [c.seconds for c in ridge] == pytest.approx(expected)
    assert {c.score for c in ridge} == {0.955}
    alone = series.solved(run.rows, {"name": "glai_joint_ridge"})  # no times are recorded
    assert [c.seconds for c in alone] == pytest.approx([0.02, 0.04, 0.06])
    assert series.solved(run.rows, named["mlp_sgd"]) == []


def test_a_mean_ends_with_the_shortest_seed_and_skips_what_is_not_finite():
    def rows(seed, values):
        for step, value in enumerate(values, start=1):
            tags = {"model": "a", "seed": seed, "phase": "train", "step": step}
            yield {"kind": "train", "seconds": 1.0, **tags}
            yield {"kind": "score", "score": value, **tags}

    both = [*rows(0, [0.1, math.nan, 0.3, 0.4]), *rows(1, [0.3, 0.4, 0.5])]
    curves = series.score_curves(both, "a")
    assert list(curves[0]) == [1, 3, 4]
    mean = [(1.0, pytest.approx(0.2)), (3.0, pytest.approx(0.4))]
    assert series.mean_curve(curves) == mean and series.mean_curve({}) == []


def test_settling_is_over_the_largest_of_each_seed(run):
    watched = series.settling(run.rows, "glai_joint")
    assert sorted(watched["settling"]) == [1, 2, 3]
    assert watched["settling"][1] == [1.0, 1.0, 1.0]
    assert watched["settling"][3] == pytest.approx([0.1, 0.25, 0.4])
    assert watched["pattern_distance"][2] == pytest.approx([0.15] * 3)
    assert series.settling(run.rows, "mlp_sgd") == {}


# pictures


def test_score_picture(run, figure_of):
    glai, mlp, linear = drawn(training.pictures(run), 1)
    titles = [axes.get_title(loc="left") for axes in (glai, mlp, linear)]
    assert titles == ["GLAI models", "MLP models", "linear models"]
    mark = "mlp_sgd's 94.00 %"
    assert [list(labelled(axes)) for axes in (glai, mlp, linear)] == [
        *([*ORDER[:3], mark], [*ORDER[3:5], mark], [*ORDER[5:], mark])
    ]
    joint = labelled(glai)["glai_joint"]
    begin = statistics.fmean(SELECTED) * SELECTOR + CONVERSION
    assert list(joint.get_xdata()) == pytest.approx([begin + EPOCH * k for k in (1, 2, 3)])
    values = [100 * (score + 0.002) for score in SCORES["glai_joint"]]
    assert list(joint.get_ydata()) == pytest.approx(values)
    shade = canvas.color("glai_joint")
    thin = [li for li in glai.lines if li.get_color() == shade and li.get_alpha() == 0.28]
    assert [line.get_ydata()[-1] for line in thin] == pytest.approx([96, 96.2, 96.4])
    ridge = labelled(glai)["glai_joint_ridge"]
    assert ridge.get_linestyle() == "None" and list(ridge.get_ydata()) == [95.5] * 3
    for axes in (glai, mlp, linear):
        assert axes.get_xscale() == "log" and axes.get_xlabel() == "seconds of training"
        assert list(labelled(axes)[mark].get_ydata()) == [94, 94]
        assert axes.get_xlim() == glai.get_xlim() and axes.get_ylim() == glai.get_ylim()
        assert axes.get_xlim()[0] < 0.01 and axes.get_xlim()[1] > SELECTOR * 4 + CONVERSION + 0.06
        assert axes.get_ylim()[0] < 90 and axes.get_ylim()[1] > 96.4
    assert glai.get_ylabel() == "validation accuracy (%)"


def test_no_words_of_the_score_picture_overlap(run, figure_of):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = training.race(run)
    canvas_drawn = FigureCanvasAgg(figure)
    canvas_drawn.draw()
    renderer = canvas_drawn.get_renderer()
    words = [text for text in figure.legends[0].get_texts()]
    for axes in figure.axes:
        words += [axes.xaxis.label, axes.yaxis.label, axes._left_title]
        low, high = axes.get_xlim()
        words += [t.label1 for t in axes.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
    boxes = [(w.get_text(), w.get_window_extent(renderer)) for w in words if w.get_text()]
    assert len(boxes) > 15
    for i, (one, a) in enumerate(boxes):
        inside = a.x0 >= 0 and a.y0 >= 0 and a.x1 <= figure.bbox.x1 and a.y1 <= figure.bbox.y1
        small = a.shrunk(0.9, 0.9)
        others = [text for text, b in boxes[i + 1 :] if small.overlaps(b.shrunk(0.9, 0.9))]
        assert inside and not others, (one, others)


def test_captions_of_the_race_name_only_what_is_drawn(run):
    _, (_, caption) = training.pictures(run)
    assert "Dots: solved directly" in caption and "Dotted: the declared scores" in caption
    lines = [row for row in run.rows if row.get("kind") != "solve"]
    changed = run._replace(rows=lines, results=run.results | {"declared": {}})
    _, (_, caption) = training.pictures(changed)
    assert "thin: single seeds" in caption and "Dot" not in caption
    solvers = [row for row in run.rows if row.get("kind") != "score"]
    _, (_, caption) = training.pictures(run._replace(rows=solvers))
    assert "thin" not in caption and "Dots: solved directly" in caption


def test_selector_picture(run, figure_of):
    (axes,) = drawn(selector.pictures(run))
    lines = labelled(axes)
    assert list(lines) == ["path change m_t", "pattern distance", "OUI"]
    path = lines["path change m_t"]
    assert list(path.get_xdata()) == [1, 2, 3]
    assert list(path.get_ydata()) == pytest.approx([1.0, (0.5 + 0.75 + 0.5) / 3, 0.25])
    assert list(lines["pattern distance"].get_ydata()) == pytest.approx([0.3, 0.15, 0.1])
    dots = [line for line in axes.lines if line.get_marker() == "."][0]
    third = sorted(y for x, y in zip(dots.get_xdata(), dots.get_ydata()) if x == 3)
    assert third == pytest.approx([0.1, 0.25, 0.4])
    caption = selector.pictures(run)[0][1]
    assert "The selector of glai_joint" in caption and "ended after 3 to 4 epochs" in caption
    rows = [row for row in run.rows if row.get("model") != "glai_joint"]
    assert "The selector of glai_path" in selector.pictures(run._replace(rows=rows))[0][1]
    assert selector.pictures(run._replace(rows=[]))[0][0] is None


def test_a_contrast_run_has_scores_below_nought(run, figure_of):
    rows = [row | ({"score": row["score"] - 1} if "score" in row else {}) for row in run.rows]
    declared = {"mlp_sgd": -0.06}
    results = run.results | {"metric": "loss", "higher_is_better": False, "declared": declared}
    changed = run._replace(rows=rows, results=results)
    axes = drawn(training.pictures(changed), 1)
    assert axes[0].get_ylabel() == "validation score (minus the loss)"
    values = list(labelled(axes[1])["mlp_sgd"].get_ydata())
    assert values == pytest.approx([-0.198, -0.098, -0.058])
    text = flat(lead.words(changed)[0])
    assert (
        "To the validation score (minus the loss) that every seed of mlp_sgd reaches, -0.0600"
        in text
    )
    assert "0.0100 +- 0.0248 nats in favour of mlp_reduced" in text  # whose loss is lower
    grid = scores.score_grid(results)
    assert grid.header[1:4] == ("model", "loss", "steps")  # the loss once
    assert cells(grid, "glai_joint")[2] == "0.9600 +- 0.0058"


def test_many_seeds_are_a_range_and_ten_thin_lines(run, figure_of):
    first = [row for row in run.rows if row["seed"] >= 0]
    rows = [row | {"seed": 3 * k + row["seed"]} for row in first for k in range(5)]

    def edit(results):
        for model in results["models"]:
            model["seeds"] = [0.5 + 0.01 * k for k in range(15)]

    many = edited(run, edit)._replace(rows=rows)
    mlp, shade = drawn(training.pictures(many), 1)[1], canvas.color("mlp_sgd")
    thin = [li for li in mlp.lines if li.get_color() == shade and li.get_alpha() == 0.28]
    assert len(thin) == training.SEEDS == 10
    assert cells(scores.score_grid(many.results), "mlp_sgd")[-1] == "50.00 to 64.00"


# the page


def test_page_says_what_was_found(run):
    document = report.html(run)
    page = Page(document)
    assert re.findall("<h2>(.*?)</h2>", document) == [
        *["Claims", "Results", "Training", "Selector", "Conversions and budget", "Cost of use"],
        *["Words", "Where this comes from"],
    ]
    assert "heads: head on digits" in page.text and document.count("<svg") == 4
    assert not re.search(r"guide|token|align|converted\b|hybrid|No gap", page.text)
    assert ["K", "path weights that may be kept, O - R", "9,600"] in page.cells
    ours = next(cells for cells in page.cells if "glai_joint" in cells)
    assert ours[-1] == "95.00 97.00 96.00"
    assert '<tr class="ours"><td class="name"></td><td class="name">glai_joint<' in document
    assert all(address.startswith("#") for address in page.addresses)
    assert not page.tags & {"script", "link", "iframe"} and "http" not in document


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
    assert "<b>&" in "".join(sum(page.cells, [])) and "<u>$d$'s" in page.text
    assert page.words.count("<u>$d$") >= 3  # two tables and a legend


def test_one_seed(tmp_path):
    run = report.read_run(make_run(tmp_path / "run", seeds=1))
    grid = scores.score_grid(run.results)
    assert cells(grid, "glai_joint")[2] == "95.0 % one seed"
    text = flat(report.table(run.results))
    assert "with one seed each" in text and "1.0 points in favour of glai_joint: one seed" in text
    page = Page(report.html(run))
    assert "ended after 3 to 3 epochs" in page.text and "svg" in page.tags


RESULT_KEYS = "declared conversions selector_epochs budget data chance claims higher_is_better"
MODEL_KEYS = """value stderr seeds validation_score seconds_to_mlp_sgd seconds_to_mlp_sgd_seeds
    reached_mlp_sgd step_us learning_rate decay seconds parameters loss role family"""
ROW_VALUES = [("seconds", None), ("score", math.nan), ("settling", math.nan)]
ROW_VALUES += [("validation_score", math.nan)]
ROW_VALUES += [(key, "gone") for key in "seconds score step phase seed kind".split()]


def replaced(tree, key, value):
    """The dict without the key, or with another value where it has the key."""
    rest = {k: v for k, v in tree.items() if k != key}
    return rest | ({key: value} if key in tree and value != "gone" else {})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("key", (RESULT_KEYS + " " + MODEL_KEYS).split())
def test_results_without_a_key(run, key):
    for value in ("gone", None, math.nan):
        models = [
            (
                model
                if isinstance(model.get(key), (list, str)) and value != "gone"
                else replaced(model, key, value)
            )
            for model in run.results["models"]
        ]
        gone = isinstance(run.results.get(key), (dict, list))
        whole = replaced(run.results, key, "gone" if gone else value)
        results = whole | {"models": models}
        assert "glai_joint" in report.table(results)
        rows = run.rows if value == "gone" else []
        page = Page(report.html(run._replace(results=results, rows=rows)))
        assert "table" in page.tags


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("key, value", ROW_VALUES)
def test_rows_without_a_key(run, key, value):
    rows = [replaced(row, key, value) for row in run.rows]
    assert Page(report.html(run._replace(rows=rows))).tags >= {"table"}


def test_no_rows_no_pictures_of_training(run):
    document = report.html(run._replace(rows=[]))
    assert "<h2>Training" not in document and "<h2>Selector" not in document
    assert document.count("<svg") == 1  # the costs


def test_comparing_runs_of_heads_says_nothing_of_a_guide(tmp_path):
    runs = [make_run(tmp_path / name) for name in "ab"]
    text = report.compare(runs)
    assert "guide" not in text and "gap" not in text
    path = report.compare_html(runs, tmp_path / "c.html")
    page = Page(path.read_text(encoding="utf8"))
    assert "guide" not in page.text and sum("glai_joint" in row for row in page.cells) == 2
