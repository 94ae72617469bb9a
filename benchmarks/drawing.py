"""Figures: their style, their SVG, and those that compare policies, and families with sweeps."""

import io
import re
import statistics
from collections.abc import Collection, Mapping, Sequence

import families
import matplotlib as mpl
from compare import CONTROLS, DEFAULT, accuracies, latest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, LogLocator, NullLocator

STYLE = {"svg.hashsalt": "outgrow", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
         "axes.spines.right": False, "legend.frameon": False, "axes.grid": True, "grid.color": "#dfe4e9",
         "axes.axisbelow": True}  # fmt: skip
COLORS = ("#2563eb", "#c2570c", "#0f8a5f", "#9333ea", "#b45309", "#0891b2", "#be123c", "#4d7c0f", "#64748b", "#a21caf")
DISTINCT = (*COLORS[:4], *COLORS[5:8])  # in lines that cross
MARKERS = "osD^"  # of what is trained from scratch
GAP = 0.06  # between two labels, of a panel's height
COLUMNS = 2
LINES = {
    "taught": {"marker": "o", "markersize": 4, "linestyle": "-"},
    "alone": {"marker": "s", "markersize": 4, "linestyle": "--", "linewidth": 0.9, "markerfacecolor": "white"},
}
"""How a family and a sweep are drawn."""


def svg(figure: Figure) -> str:
    """Return a figure as SVG that is the same for the same figure, and small: to a tenth of a point, no style twice."""
    file = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = re.sub(r"(?<=[ \"])(-?\d+\.\d)\d+", r"\1", file.getvalue())
    text = re.sub(r'(<use [^>]*?)stroke: [^"]*"', r'\1"', text)  # which the marker that is used has itself
    return "\n".join(line.strip() for line in text.splitlines()) + "\n"


def compared(lines: Sequence[Mapping]) -> Figure:
    """Draw accuracy against training FLOPs, a panel a task, a point a row: means, bars of one standard deviation."""
    tasks = latest(lines)
    looks = appearance({name for rows in tasks.values() for name in rows})
    with mpl.rc_context(STYLE):
        figure, panels = panelled([*tasks])
        for axes, rows in zip(panels, tasks.values(), strict=True):
            draw_rows(axes, rows, looks)
        figure.supxlabel("training GFLOP, checks included", fontsize=9)
        figure.supylabel("test accuracy, %", fontsize=9)
    return figure


def beside_sweeps(lines: Sequence[Mapping]) -> Figure:
    """Draw accuracy at each size against all FLOPs, a panel a task, a line a size: means, bars of one deviation."""
    tasks = families.latest(lines)
    with mpl.rc_context(STYLE):
        figure, panels = panelled([*tasks])
        for axes, lengths in zip(panels, tasks.values(), strict=True):
            draw_sizes(axes, lengths)
        handles = [Line2D([], [], color="#20262d", label=families.KINDS[kind], **look) for kind, look in LINES.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        figure.supxlabel("training TFLOP of all sizes together, a point a length (numbers: parameters)", fontsize=9)
        figure.supylabel("test accuracy, %", fontsize=9)
    return figure


def panelled(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each title."""
    height = -(-len(titles) // COLUMNS)
    figure = Figure(figsize=(9.6, 0.4 + 2.9 * height), layout="constrained")
    panels = list(figure.subplots(height, COLUMNS, squeeze=False).flat)
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title)
    for axes in panels[len(titles) :]:
        axes.set_axis_off()
    return figure, panels[: len(titles)]


def draw_rows(axes: Axes, rows: Mapping[str, Mapping[int, Mapping]], looks: Mapping[str, Mapping]) -> None:
    """Draw a task: every row's mean and spread, with its name beside the panel."""
    points = {}
    for name, runs in rows.items():
        x, y = [run["train_flops"] / 1e9 for run in runs.values()], list(accuracies(runs).values())
        points[name] = (statistics.mean(x), statistics.mean(y))
        axes.errorbar(
            *points[name], xerr=deviation(x), yerr=deviation(y), elinewidth=0.7, linestyle="none", **looks[name]
        )
    label_beside(axes, points, looks)


def draw_sizes(axes: Axes, lengths: families.Lengths) -> None:
    """Draw a task: for the taught family and for the sweep a line a size, over lengths."""
    points, colors = {}, {}
    for at, params in enumerate(families.sizes_of(lengths)):
        name = f"{params:,.0f}"
        colors[name] = {"color": DISTINCT[at % len(DISTINCT)]}
        for kind, look in LINES.items():
            x = [statistics.mean(families.tflops(runs, kind)) for runs in lengths.values()]
            y = [[families.accuracies(run, kind)[at] for run in runs.values()] for runs in lengths.values()]
            means = [statistics.mean(values) for values in y]
            axes.errorbar(x, means, yerr=[deviation(values) for values in y], elinewidth=0.7, **colors[name], **look)
            points[name] = (x[-1], means[-1])
    logarithmic(axes, "{x:g}")
    label_beside(axes, points, colors)


def logarithmic(axes: Axes, form: str | Formatter) -> None:
    """Give a figure a logarithmic axis of x, with numbers of a form at 1, 2 and 5."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(form)
    axes.xaxis.set_minor_locator(NullLocator())


def label_beside(axes: Axes, points: Mapping[str, tuple[float, float]], looks: Mapping[str, Mapping]) -> None:
    """Write names beside a panel, each with a line to its point."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)
    for name, at in apart({name: (y - bottom) / (top - bottom) for name, (_, y) in points.items()}).items():
        axes.annotate(
            name,
            points[name],
            xytext=(1.04, at),
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            color=looks[name]["color"],
            fontweight="bold" if name == DEFAULT else "normal",
            arrowprops={"arrowstyle": "-", "color": "#c3cad2", "linewidth": 0.5, "shrinkB": 3},
        )


def apart(wanted: Mapping[str, float]) -> dict[str, float]:
    """Heights of labels, 0 to 1 of a panel, as wanted but with gaps between them; more than fit stand below it."""
    names, at = sorted(wanted, key=lambda name: (wanted[name], name)), {}
    for name in names:
        at[name] = max(wanted[name], max(at.values(), default=-GAP) + GAP)
    limit = 1.0
    for name in reversed(names):
        at[name] = min(at[name], limit)
        limit = at[name] - GAP
    return at


def appearance(names: Collection[str]) -> dict[str, dict]:
    """Marker and colour of every row: policies are filled, what is trained from scratch is not."""
    controls = list(CONTROLS.values())
    policies = sorted(set(names) - set(controls), key=lambda name: (name != DEFAULT, name))
    hollow = {"color": "#20262d", "markersize": 5, "markerfacecolor": "white"}
    filled = {name: {"marker": "o", "color": COLORS[i % len(COLORS)]} for i, name in enumerate(policies)}
    return {
        **{name: {**look, "markersize": 7 if name == DEFAULT else 5} for name, look in filled.items()},
        **{name: {"marker": marker, **hollow} for name, marker in zip(controls, MARKERS, strict=True)},
    }


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation, 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
