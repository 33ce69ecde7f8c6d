"""How similar the guide's stages are to each other, and where its seams lie."""

from typing import Any

from theseus_jax.report import canvas, units
from theseus_jax.report.panel import Grid, Panel, Picture, Run
from theseus_jax.report.standing import Results

SEAM = {"color": "#00a6a6", "linewidth": 2, "zorder": 4}


def seams_of(results: Results) -> dict[str, str]:
    """Guide stage -> "guide stage = target stage", for every pair that was measured."""
    stages = [s for s in results.get("stages") or () if s.get("guide_stage") is not None]
    return {str(s["guide_stage"]): f"{s['guide_stage']} = {s.get('stage')}" for s in stages}


def similarity_of(results: Results) -> tuple[list[str], list[list[float]]]:
    """(names, debiased CKA of every two stages of the guide); empty where there is no matrix."""
    table = results.get("guide_similarity") or {}
    names, rows = [str(name) for name in table.get("stages") or ()], table.get("cka") or ()
    if len(rows) != len(names) or any(len(row) != len(names) for row in rows):
        return [], []
    return names, [[v if units.measured(v) else float("nan") for v in row] for row in rows]


def grids(run: Run) -> list[Grid]:
    """The matrix below its diagonal."""
    (names, matrix), seams = similarity_of(run.results), seams_of(run.results)
    numbers = tuple(str(i) for i in range(1, len(names) + 1))
    rows = []
    for i, name in enumerate(names):
        values = [units.number(value) for value in matrix[i][: i + 1]]
        rows.append((numbers[i], seams.get(name, name), *values, *[""] * (len(names) - i - 1)))
    note = "Debiased CKA on validation data; = the target's stage at a seam."
    return [Grid(("", "stage = seam", *numbers), rows, names=2, note=note, pictured=True)]


def pictures(run: Run) -> list[Picture]:
    """The heat map, and what is outside it."""
    names, seams = similarity_of(run.results)[0], seams_of(run.results)
    text = "Debiased CKA of every two stages of the guide on validation data: stages that are "
    text += "nearly the same ask for one seam."
    if set(seams) & set(names):
        text += " Lines: seams, named guide stage = target stage; between two lies what one part "
        text += "of the target replaced."
    outside = [label for guide, label in seams.items() if guide not in names]
    text += f" Not in the map: {', '.join(outside)}." if outside else ""
    return [(heat_map(run), text)]


def heat_map(run: Run) -> Any:
    """An <svg>, lines after the stages at which seams lie; None without a matrix."""
    (names, matrix), seams = similarity_of(run.results), seams_of(run.results)
    count, middles = len(names), [i + 0.5 for i in range(len(names))]
    if not names:
        return None
    from matplotlib import colormaps

    colours = colormaps["magma_r"].resampled(10)  # more would make the colour bar an image
    with canvas.figure(canvas.WIDE, min(canvas.WIDE, 1.1 + 0.3 * count)) as figure:
        axes, edges = figure.subplots(), range(count + 1)
        mesh = axes.pcolormesh(edges, edges, matrix, cmap=colours, vmin=0, vmax=1)
        figure.colorbar(mesh, ax=axes, label="debiased CKA", pad=0.02)
        for i in (i for i, name in enumerate(names, start=1) if name in seams):
            axes.plot([0, count], [i, i], label=seams[names[i - 1]], **SEAM)
            axes.plot([i, i], [0, count], **SEAM)
        axes.set_yticks(middles, [seams.get(name, name) for name in names])
        axes.set_xticks(middles, names, rotation=90 if count > 10 else 0)
        axes.set(xlim=(0, count), ylim=(count, 0))
        axes.grid(visible=False)
        return canvas.svg(figure, "Similarity of the guide's stages to each other")


PANEL = Panel("Stages of the guide", pictures=pictures, grids=grids)
