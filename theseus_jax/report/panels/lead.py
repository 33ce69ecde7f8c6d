"""The lead: what was compared on which data, who is better, how much of the gap, how soon."""

from theseus_jax.report import standing, units
from theseus_jax.report.panel import Panel, Run
from theseus_jax.report.panels import provenance
from theseus_jax.report.standing import Results

# keys of the config's guide and target that say what they are; a network of an arch of its own is
# not made of cells, but for one
KINDS, ARCHS, CELLS = ("origin", "cell", "block"), ("origin", "arch"), ("birnn",)
SIZES = ("depth", "width", "heads", "hidden", "units", "patch", "rank")


def title(run: Run) -> str:
    """The page's heading."""
    name = (run.results.get("data") or {}).get("name")
    task = str(run.results.get("task", "a run")).replace("_", " ")
    return f"{run.name}: {task}" + (f" on {name}" if name else "")


def facts(results: Results) -> list[str]:
    """The metric and its direction, and what is known of chance, device and time."""
    direction = "higher" if results.get("higher_is_better") else "lower"
    items, chance = [f"{results['metric']}, {direction} is better"], results.get("chance")
    if units.measured(chance):
        items.append(f"chance {standing.score(results, chance, None, 0)}")
    items += [str(results["device"])] if results.get("device") else []
    if units.measured(results.get("seconds_total")):
        items.append(f"{results['seconds_total'] / 60:.1f} minutes in all")
    return items


def words(run: Run) -> list[str]:
    """One paragraph."""
    results = run.results
    parts = [_compared(results), _networks(run), _comparison(results), _gap(results)]
    parts += [_time(results, *declared) for declared in standing.declared(results)]
    return [" ".join(filter(None, parts))]


def _compared(results: Results) -> str:
    counts = {standing.seed_count(m) for m in results["models"] if m.get("role") != "guide"} or {1}
    seeds = f"{'up to ' * (len(counts) > 1)}{_count(max(counts), 'seed')} each"
    guides = {standing.seed_count(model) for model in standing.of_role(results, "guide")}
    seeds += f", the guide with {_count(min(guides), 'seed')}" if guides - counts else ""
    models, data = _count(len(results["models"]), "model"), provenance.data_line(results)
    return f"{models} compared, with {seeds}" + (f", on {data}." if data else ".")


def _count(count: int, word: str) -> str:
    return f"one {word}" if count == 1 else f"{count} {word}s"


def _networks(run: Run) -> str:
    """What the config says of guide and target, if it does."""
    shown = []
    for key in ("guide", "target"):
        settings = run.config.get(key)
        if isinstance(settings, dict):
            kinds = ARCHS if settings.get("arch") else KINDS
            kinds = (*ARCHS, "cell") if settings.get("arch") in CELLS else kinds
            parts = [" ".join(str(settings[kind]) for kind in kinds if settings.get(kind))]
            parts += [f"{size} {settings[size]}" for size in SIZES if settings.get(size)]
            shown.append(f"{key}: {', '.join(filter(None, parts)) or 'as the config says'}")
    convert = run.config.get("convert")
    if isinstance(convert, dict) and convert.get("schedule"):
        shown.append(f"schedule: {convert['schedule']}")
    return f"The config says {'; '.join(shown)}." if shown else ""


def _comparison(results: Results) -> str:
    guides = standing.of_role(results, "guide")
    parts = [f"{model['name']} has {standing.model_score(results, model)}" for model in guides]
    for role, group in (("ours", "models of the method"), ("rival", "rivals")):
        model, candidates = standing.best(results, role), standing.of_role(results, role)
        if model:
            key = standing.chosen_by(candidates).replace("_", " ").replace("value", "test score")
            chosen = f", the best of {len(candidates)} {group} by {key},"
            name = model["name"] + chosen * (len(candidates) > 1)
            parts.append(f"{name} has {standing.model_score(results, model)}")
    text = f"Test {results['metric']}: {'; '.join(parts)}." if parts else ""
    text, lead = text.replace(" one seed", " (one seed)"), standing.difference(results)
    pair = f" {lead[0]['name']} and {lead[1]['name']} differ by " if lead else ""
    return f"{text}{pair}{standing.difference_words(results, *lead)}." if lead else text


def _gap(results: Results) -> str:
    ours, scratch = standing.best(results, "ours"), standing.named(results, "from_scratch")
    if not (ours and scratch and standing.of_role(results, "guide")):
        return ""
    gap, name = standing.gap_recovered(results, ours), ours["name"]
    between = f"of the {standing.gap_unit(results)} between from_scratch and guide"
    if gap is None:
        return f"No gap between from_scratch and guide was measured that {name} could recover."
    how = "recovers" if gap >= 0 else "is worse than from_scratch by"
    return f"{name} {how} {abs(gap):.1%} {between}."


def _time(results: Results, names: list[str], value: float) -> str:
    """How soon the fastest and the declaring models reach a score that all their seeds reach."""
    key = f"seconds_to_{names[0]}"
    timed = [model for model in results["models"] if units.measured(model.get(key))]
    timed.sort(key=lambda model: model[key])
    first = {model.get("role"): model["name"] for model in timed[::-1]}  # the fastest of each
    roles = {"ours": "the fastest of the method", "rival": "the fastest rival"}
    who = {
        first[role]: f"{words} ({first[role]})" for role, words in roles.items() if role in first
    }
    who = who | {name: f"{name} itself" for name in names if name not in who}
    times = {model["name"]: units.seconds(model[key]) for model in timed}
    parts = [f"{words} takes {times[name]}" for name, words in who.items() if name in times]
    parts += [] if "ours" in first else ["no model of the method gets there in every seed"]
    score = f"{standing.score_name(results)} that every seed of {' and '.join(names)} reaches"
    return f"To the {score}, {standing.level(results, value)}, {', '.join(parts)}."


PANEL = Panel("", words=words)
