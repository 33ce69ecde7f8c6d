"""What the page of a run of task "head" says: lead, scores and speed, training, conversions, costs of use."""

from __future__ import annotations

from typing import Any, Callable

from theseus_jax.report import head_curves, head_figures, head_tables, heads, markup, units
from theseus_jax.report.read import Run
from theseus_jax.report.tables import Grid, loss_unit, named, score, seed_count

MEANING = {
    "O": "parameters of the whole MLP",
    "R": "parameters of the reduced MLP, the selector",
    "E": "paths of the reduced MLP, from an input or bias to an output",
    "K": "path weights that may be kept, O - R",
    "mu": "K over E",
    "P": "paths that may be kept if all outputs share them, and their share",
}
EACH = 10  # more seeds than these show as a range
Draw = Callable[..., str]


def title(run: Run) -> str:
    """The page's heading."""
    return f"{run.name}: GLAI and its rivals on {_data(run.results) or 'the same features'}"


def summary(run: Run) -> str:
    """One paragraph: what was compared, how the best GLAI arm and rival differ, and how soon who is where."""
    results = run.results
    seeds = max(map(seed_count, results["models"]))
    text = f"{len(results['models'])} heads were trained on the same features"
    text += f" of {_data(results)}" if _data(results) else ""
    text += f", each with {'one seed' if seeds == 1 else f'{seeds} seeds'}. {_comparison(results)}"
    return " ".join([text, *(_time(results, names, value) for names, value in heads.declared(results))])


def _comparison(results: dict[str, Any]) -> str:
    found = heads.difference(results)
    if found is None:
        return "No GLAI arm and rival have scores of the same seeds to compare."
    ours, rival = found.ours, found.rival
    text = (
        f"Best by validation score are {ours['name']} among the GLAI arms, with a test {results['metric']} "
        f"of {_score(results, ours)}, and {rival['name']} among the rivals, with {_score(results, rival)}. "
    )
    if found.judged.count == 1:
        return text + f"They differ by {heads.difference_text(found, signed=False)}; {heads.verdict(found)}."
    ahead = ours["name"] if found.judged.mean > 0 else rival["name"]
    favour = f" in favour of {ahead}" if found.judged.mean else ""
    return text + (
        f"The difference is {heads.difference_text(found, signed=False)}{favour} (95 % over {found.judged.count} paired seeds): "
        f"{heads.verdict(found)}."
    )


def _time(results: dict[str, Any], names: list[str], value: float) -> str:
    """How soon the fastest GLAI arm, the fastest rival and the declaring arms reach a declared score."""
    key = f"seconds_to_{names[0]}"
    ours, rival = (heads.fastest(results, names[0], kind) for kind in (True, False))
    takes = [(f"the fastest GLAI arm ({ours['name']})", ours)] if ours else []
    takes += [(f"the fastest rival ({rival['name']})", rival)] if rival else []
    for name in names:
        model = named(results, name)
        if units.measured(model.get(key)) and model not in (ours, rival):
            takes.append((f"{name} itself", model))
    words = [f"{who} takes {_seconds(model[key])}" for who, model in takes]
    words += [] if ours else ["no GLAI arm gets there in every seed"]
    return (
        f"To the {heads.score_name(results)} that every seed of {' and '.join(names)} reaches, {value:.4f}, "
        f"{', '.join(words)}."
    )


def results_section(results: dict[str, Any]) -> str:
    """Scores, and what they took: what the search chose, a step, and the way to each declared score."""
    scores, speeds = head_tables.score_grid(results), head_tables.speed_grid(results)
    ours = heads.best(results, True)
    bold = (ours["name"],) if ours else ()
    rows = [(*row, _each(m)) for row, m in zip(scores.rows, heads.grouped(results["models"]))]
    loss = "" if results["metric"] == "loss" else f"loss in {loss_unit(results)}; "
    note = (
        f"Test {results['metric']}, mean ± standard error over seeds; {loss}steps and FLOPs are the training "
        "of one seed, a solver's steps its iterations. Bold: the GLAI arm of the best validation score."
    )
    content = Grid((*scores.header, "each seed"), rows, names=2)
    parts = [markup.grid(content, bold=bold), markup.paragraph(note, "note")]
    if len(speeds.header) > 2:
        text = (
            "What the search chose (a solver's decay is its penalty), and time of training, compiling and "
            "evaluation left out; that of a GLAI arm begins with its selector."
        )
        if heads.declared(results):
            text += (
                f" To a declared score: until the best {heads.score_name(results)} that every seed of an arm "
                f"reaches ({heads.declared_text(results)}); where not all seeds reach it, how many do."
            )
        parts += [markup.grid(speeds, bold=bold), markup.paragraph(text, "note")]
    return markup.section("Results", *parts)


def training_section(run: Run, draw: Draw) -> str:
    """Both pictures."""
    declared = "Dotted lines: the declared scores. " if heads.declared(run.results) else ""
    text = (
        "Validation score after each epoch against seconds of training. Strong lines: means over seeds, as "
        f"far as all seeds train; thin lines: single seeds, {head_figures.SEEDS} at most; dots: arms solved "
        f"directly, a dot a seed; pale: arms of the other panels. {declared}A GLAI arm's time begins with "
        "its selector: ticks on the time axis show when selector and conversion are done, in the mean."
    )
    pictures = draw(head_figures.scores, text), draw(head_figures.selector, _selector_caption(run))
    return markup.section("Training", *pictures)


def _selector_caption(run: Run) -> str:
    found = head_curves.settling(run.rows)
    if found is None:
        return ""
    ends, rule = list(found.ends.values()), head_figures.rule(run)
    each = ", ".join(map(str, ends)) if len(ends) <= EACH else f"{min(ends)} to {max(ends)}"
    text = (
        f"The selector of {found.model}, once an epoch: mean and range over the seeds still training. m_t: "
        "how much the gates of its paths changed since the epoch before, over the largest m_t of the seed; "
        "pattern distance: share of gates that changed; OUI: how differently the gates respond to different "
        "rows. "
        f"{'The seed' if len(ends) == 1 else 'Seeds'} ended after {each} epochs"
    )
    if units.measured(rule.get("settled_share")):
        most, window = rule.get("selector_epochs"), rule.get("settled_window", 1)
        reached = f" (as {ends.count(most)} of {len(ends)})" if most in ends else ""
        text += (
            f"; a selector ends when the mean of its last {window} m_t is at most "
            f"{rule['settled_share']:.0%} of the largest (dotted), or after {most} epochs{reached}"
        )
    same = [name for name, epochs in (run.results.get("selector_epochs") or {}).items() if epochs == ends]
    others = [name for name in same if name != found.model]
    return text + (f". Selectors of {' and '.join(others)} ended alike." if others else ".")


def conversion_section(results: dict[str, Any]) -> str:
    """What conversion did to the logits, and the budget."""
    content, budget = head_tables.conversion_grid(results), head_tables.budget_facts(results)
    parts = []
    if content.rows:
        note = (
            "logit diff.: largest difference of a logit between the selector and all its paths, before "
            "pruning, over all seeds. Means over seeds: pruning error, the summed change of an example's "
            "logits when only the kept paths remain, untrained, with its bound (arXiv 2510.00883, theorem "
            "2), and the time of the conversion."
        )
        parts += [markup.grid(content), markup.paragraph(note, "note")]
    if budget:
        rows = [(letter, MEANING[letter], value) for letter, value in budget]
        parts.append(markup.grid(Grid(("budget", "meaning", "count"), rows, names=2)))
    return markup.section("Conversions and budget" if content.rows else "Budget", *parts)


def cost_section(results: dict[str, Any]) -> str:
    """Parameters, FLOPs and latency of every head."""
    content = head_tables.use_grid(results)
    if len(content.header) < 3:
        return ""
    note = "One example through the head alone: compiled FLOPs, and the median latency at batch 1."
    return markup.section("Cost of use", markup.grid(content), markup.paragraph(note, "note"))


def _each(model: heads.Model) -> str:
    seeds = list(model.get("seeds") or ())
    if len(seeds) > EACH and all(map(units.measured, seeds)):
        return f"{min(seeds):.4f} to {max(seeds):.4f}"
    return " ".join(units.number(value, 4) for value in seeds) or "-"


def _score(results: dict[str, Any], model: heads.Model) -> str:
    text = score(results, model.get("value"), model.get("stderr"), seed_count(model))
    return text.replace("+-", "±").replace(" one seed", " (one seed)")


def _seconds(value: float) -> str:
    return head_tables.seconds(value).replace("us", "µs")


def _data(results: dict[str, Any]) -> str:
    data = results.get("data")
    return str(data["name"]) if isinstance(data, dict) and data.get("name") else ""
