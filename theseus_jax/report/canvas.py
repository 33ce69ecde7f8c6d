"""What every picture shares: colours, style, charts, and the way from matplotlib to inline SVG."""

import contextlib
import io
import re
from html import escape
from typing import Any, Callable, Iterator, NamedTuple, Sequence

# stands for the page's text colour: replaced by currentColor, so that dark pages work
INK = "#010203"
# models of ours are warm, the guide is grey
SHADES = (
    "guide #8a8f98 converted #e4572e from_scratch #2f7fd1 distilled #17a398 one_shot #a463d6 "
    "one_shot_distilled #d6a01d supervised #6b7a2f fitnets #c2588a theseus #4aa3c7 ted #9a6b4b "
    "glai_joint #e4572e glai_path #d6a01d glai_per_output #c2588a glai_untrained #9a6b4b "
    "glai_joint_logistic #f08c6c glai_joint_ridge #a8322a mlp_sgd #2f7fd1 mlp_adam #6a5fd0 "
    "mlp_reduced #35aacb low_rank #6f8fb0 linear_sgd #2f9e5b linear_adam #8aa62a "
    "logistic #17a398 ridge #5f7a4a"
).split()
COLORS = dict(zip(SHADES[::2], SHADES[1::2]))
STAGES = ("#e4572e", "#d6a01d", "#7a8f3c", "#17a398", "#2f7fd1", "#a463d6", "#c2588a", "#9a6b4b")
LONGER = "_equal_flops"  # ends the name of a model that prolongs the one before it
WIDE = 9.2  # inches, of every picture
STYLE = {
    **{"svg.fonttype": "none", "text.parse_math": False, "font.size": 9, "text.color": INK},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK},
    **{"axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.7},
    **{"axes.grid": True, "grid.color": INK, "grid.alpha": 0.12, "grid.linewidth": 0.6},
    **{"lines.linewidth": 1.6, "legend.frameon": False, "axes.axisbelow": True},
    **{"axes.titlesize": 9.5, "axes.titlelocation": "left"},
    "figure.constrained_layout.use": True,
}


class Line(NamedTuple):
    """A curve, or a level without xs. label: None for one that the legend leaves out."""

    xs: Sequence[float] | None
    ys: Sequence[float]
    color: str
    label: str | None = None
    style: dict[str, Any] = {}


class Plot(NamedTuple):
    """What stands in one pair of axes. settings: of Axes.set. x: text of a number on that axis."""

    lines: Sequence[Line]
    settings: dict[str, Any]
    x: Callable[[float], str] | None = None


def color(model: str) -> str:
    """The colour of a model in every picture; one that prolongs another has that one's."""
    base = model.removesuffix(LONGER)
    return COLORS.get(base, STAGES[sum(base.encode("utf8", "replace")) % len(STAGES)])


@contextlib.contextmanager
def figure(width: float, height: float) -> Iterator[Any]:
    """A matplotlib Figure in the report's style, whatever the user's own settings are."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        yield Figure(figsize=(width, height))


def chart(rows: Sequence[Sequence[Plot]], heights: Sequence[float], label: str) -> Any:
    """An <svg> of plots in rows that share their y axis, under one legend; None without lines."""
    if not any(plot.lines for row in rows for plot in row):
        return None
    with figure(WIDE, sum(heights) + 0.5) as drawn:
        shape = {"squeeze": False, "sharey": "row", "sharex": "col", "height_ratios": heights}
        grid = drawn.subplots(len(rows), len(rows[0]), **shape)
        named: dict[str, Any] = {}
        for axes, plot in zip(grid.flat, (plot for row in rows for plot in row)):
            for xs, ys, shade, name, style in plot.lines:
                if xs is None:
                    handle = axes.axhline(ys[0], color=shade, **{"linewidth": 1.3} | style)
                else:
                    (handle,) = axes.plot(xs, ys, color=shade, **style)
                if name is not None:
                    handle.set_label(name)
                    named.setdefault(name, handle)
            axes.set(**plot.settings)
            for axis, text in ((axes.xaxis, plot.x), (axes.yaxis, None)):
                if text or axis.get_scale() == "log":
                    axis_units(axis, text or str)
        # about 125 characters are a line of a legend
        columns = max(1, min(8, 125 // (max(map(len, named), default=0) + 8)))
        drawn.legend(named.values(), named.keys(), loc="outside upper left", ncols=columns)
        return svg(drawn, label)


def focus(lines: Sequence[Line]) -> tuple[float, float]:
    """Limits of a y axis that show where lines differ: all values after their first fifth."""
    shown = [value for line in lines for value in line.ys[len(line.ys) // 5 :]]
    margin = 0.06 * (max(shown) - min(shown)) or 0.02 * abs(shown[0]) or 0.1
    return min(shown) - margin, max(shown) + margin


def svg(figure: Any, label: str) -> str:
    """The figure as an <svg> element without addresses; label: plain words, for screen readers."""
    import matplotlib

    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": label}):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    body = file.getvalue()
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body[body.index("<svg") :], count=2)
    begin = f'<svg role="img" aria-label="{escape(label)}"'
    return body.replace(INK, "currentColor").replace("<svg", begin, 1)


def axis_units(axis: Any, text: Callable[[float], str]) -> None:
    """Write an axis' numbers by `text`, figure and unit, without trailing zeros."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def tick(value: float, _: int) -> str:
        figure, _, unit = text(float(value)).partition(" ")
        return f"{float(figure):g} {unit}".strip().replace("us", "µs")

    axis.set_major_formatter(FuncFormatter(tick))
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        subs = (1.0,) if high / low > 100 else (1.0, 3.0) if high / low > 10 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_minor_formatter(NullFormatter())
