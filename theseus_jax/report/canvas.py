"""What every picture shares: colours, style, and the way from a matplotlib figure to inline SVG."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any, Callable, Iterator

INK = "#010203"  # stands for the page's text colour: replaced by currentColor, so that dark pages work
COLORS = {
    "guide": "#8a8f98",
    "converted": "#e4572e",
    "from_scratch": "#2f7fd1",
    "distilled": "#17a398",
    "one_shot": "#a463d6",
    "one_shot_distilled": "#d6a01d",
    "supervised": "#6b7a2f",
    "fitnets": "#c2588a",
    "theseus": "#4aa3c7",
    "ted": "#9a6b4b",
    # heads: GLAI arms are warm, MLPs blue, linear models green
    "glai_joint": "#e4572e",
    "glai_path": "#d6a01d",
    "glai_per_output": "#c2588a",
    "glai_untrained": "#9a6b4b",
    "glai_joint_logistic": "#f08c6c",
    "glai_joint_ridge": "#a8322a",
    "mlp_sgd": "#2f7fd1",
    "mlp_adam": "#6a5fd0",
    "mlp_reduced": "#35aacb",
    "low_rank": "#6f8fb0",
    "linear_sgd": "#2f9e5b",
    "linear_adam": "#8aa62a",
    "logistic": "#17a398",
    "ridge": "#5f7a4a",
}
OTHERS = ("#7a8f3c", "#c2588a", "#4aa3c7", "#9a6b4b")
STAGES = ("#e4572e", "#d6a01d", "#7a8f3c", "#17a398", "#2f7fd1", "#a463d6", "#c2588a", "#9a6b4b")
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
}


def color(model: str) -> str:
    """The colour of a model in every picture; an equal-FLOPs model has that of the one it prolongs."""
    base = model.removesuffix("_equal_flops")
    return COLORS.get(base, OTHERS[sum(base.encode()) % len(OTHERS)])


@contextlib.contextmanager
def figure(width: float, height: float) -> Iterator[Any]:
    """A matplotlib Figure in the report's style, whatever the user's own settings are."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        yield Figure(figsize=(width, height))


def svg(figure: Any, label: str) -> str:
    """The figure as an <svg> element with a label (plain words) for screen readers, and no addresses."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": label}):
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    body = file.getvalue()
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body[body.index("<svg") :], count=2)
    return body.replace(INK, "currentColor").replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def axis_units(axis: Any, text: Callable[[float], str], log: bool = False) -> None:
    """Write an axis' numbers by `text`, a figure and a unit, without trailing zeros; log: no minor ones."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    def tick(value: float, _: int) -> str:
        figure, _, unit = text(value).partition(" ")
        return f"{float(figure):g} {unit}".strip()

    axis.set_major_formatter(FuncFormatter(tick))
    if log:
        axis.set_minor_formatter(NullFormatter())
