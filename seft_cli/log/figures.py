"""Draw a log as panels in one style, all on one sheet or some of them. The same log gives the same bytes."""

import io
import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, PercentFormatter

from seft_cli.log.read import SELECTIONS, Event, Log

# these are the colours of Okabe and Ito, because colour-blind readers can distinguish them
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7"
INK, QUIET, FAINT = "#222222", "#666666", "#c8c8c8"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "text.color": INK,
    "text.parse_math": False,
    "grid.color": "#eeeeee",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "svg.hashsalt": "seft",
    "svg.fonttype": "none",
}
MARKS = {
    "loss-jump-after-growth": ("^", VERMILLION),
    "divergence": ("D", PURPLE),
    "support-above-target": ("s", ORANGE),
    "denser-at-end": ("X", INK),
}
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
MANY_STEPS, MANY_EVENTS, MANY_WARNINGS = 1200, 40, 12
MEAN_OF = 10
HIGHEST = 1e100
"""larger losses are drawn at this height, because an axis cannot be computed near the largest float"""
ROUND = (1, 2, 5, 10)
"""ticks lie at these multiples of a power of ten"""


def sheet(log: Log) -> Figure:
    """Return one figure of the whole run."""
    rows = [["loss", "loss"], ["support", "support"]]
    heights = [1.35, 0.6]
    if log.events:
        rows = [["loss"] * 2, ["support", "overlap"], ["support", "churn"], ["counts", "gaps"], ["map"] * 2]
        heights = [1.35, 0.6, 0.6, 1.2, 0.95]
    figure = Figure(figsize=(11, 2.6 * sum(heights) + 0.7), layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(h_pad=0.09, w_pad=0.09)
    mosaic: dict[str, Any] = figure.subplot_mosaic(rows, height_ratios=heights)
    for name, axes in mosaic.items():
        PANELS[name](axes, log)
    title, below = heading(log)
    figure.suptitle(f"{title}\n", x=0.012, ha="left", fontsize=13, fontweight="bold")
    figure.text(0.012, 1 - 0.42 / figure.get_figheight(), below, color=QUIET, va="top")
    return figure


def panel(log: Log, names: Sequence[str], size: tuple[float, float]) -> Figure:
    """Return a figure of these panels, one below the other."""
    figure = Figure(figsize=size, layout="constrained")
    for name, axes in zip(names, figure.subplots(len(names), squeeze=False)[:, 0], strict=True):
        PANELS[name](axes, log)
    return figure


def rendered(draw: Callable[[], Figure], kind: str) -> bytes:
    """Return a figure as the bytes of a png or svg file, without dates or versions, so that they can be compared."""
    empty = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None, "Format": None, "Type": None}}
    buffer = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        draw().savefig(buffer, format=kind, dpi=150, metadata=empty[kind], facecolor="white")
    return buffer.getvalue()


def heading(log: Log) -> tuple[str, str]:
    """Return the title (preset and size of the model), and a line on how far the run went."""
    places = [block for name in log.matrices if (block := place(name)[1]) is not None]
    slots = sum(matrix.slots for matrix in log.matrices.values())
    size = f"{counted(log.numel)} weights in {plural(len(log.matrices), 'matrix', 'matrices')}"
    size += f" of {plural(len(set(places)), 'block')}" if places else ""
    of = 100 / max(log.numel, 1)
    share = f"{of * log.budget:.1f} % stored, {of * slots:.2g} % trained"
    done, planned = log.steps[-1].step if log.steps else 0, log.settings.get("steps")
    went = plural(done, "step") if log.stored_at_end is not None else f"{done} of {planned or '?'} steps so far"
    below = f"{went}, {plural(len(log.events), 'event')}, {plural(len(log.warnings), 'warning')}"
    if log.stored_at_end is not None:
        below += f"; {log.stored_at_end:,} weights stored at the end, {log.budget:,} at load"
    return f"{printable(log.settings.get('preset', 'a run'))}: {size}, {share}", below


def plural(n: int, one: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def counted(n: float) -> str:
    """Return a number as text, a large one shortened as in 1.2 M."""
    return EngFormatter(places=1)(n) if n >= 1e4 else f"{n:,.0f}"


def printable(text: Any) -> str:
    """Return a text with a question mark for every character that is not printable ASCII, because fonts may lack it."""
    return "".join(c if " " <= c <= "~" else "?" for c in str(text)[:60])


def place(name: str) -> tuple[str, int | None]:
    """Return the projection of a matrix and the number of its block, or None if its name has none."""
    block = re.search(r"\.(\d{1,6})\.", name)
    role = re.search(r"([A-Za-z0-9]+)_proj\b", name)
    rest = name.removesuffix(".weight").rsplit(".", 1)[-1]
    return printable(role[1] if role else rest), int(block[1]) if block else None


def projection_order(role: str) -> tuple[int, str]:
    """Return a key that sorts projections in the order a block uses them, all others after them."""
    return PROJECTIONS.index(role) if role in PROJECTIONS else len(PROJECTIONS), role


def _titled(axes: Any, title: str, unit: str, log: Log) -> None:
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.grid(axis="y")
    last = max([s.step for s in log.steps[-1:]] + [e.step for e in log.events[-1:]] + [1])
    axes.set_xlim(-0.012 * last, 1.012 * last)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=ROUND))


def _loss(axes: Any, log: Log) -> None:
    _titled(axes, "Loss", "cross-entropy, nats a token", log)
    steps, losses = [s.step for s in log.steps], [max(-HIGHEST, min(s.loss, HIGHEST)) for s in log.steps]
    if len(log.events) <= MANY_EVENTS:
        for event in log.events:
            axes.axvline(event.step, color=FAINT, linewidth=0.9, zorder=0)
    else:
        axes.plot([e.step for e in log.events], [0.012] * len(log.events), "|", color=QUIET, markersize=5,
                  markeredgewidth=0.5, transform=axes.get_xaxis_transform())  # fmt: skip
    if len(steps) > MANY_STEPS:
        size = -(-len(steps) // 600)
        parts = [losses[i : i + size] for i in range(0, len(losses), size)]
        middle = [fmean(steps[i : i + size]) for i in range(0, len(steps), size)]
        axes.fill_between(middle, [*map(min, parts)], [*map(max, parts)], color=SKY, alpha=0.45, linewidth=0,
                          label=f"lowest to highest of {size} steps")  # fmt: skip
        axes.plot(middle, [*map(fmean, parts)], color=BLUE, linewidth=1.2, label=f"mean of {size} steps")
    elif len(steps) < 2 * MEAN_OF:
        axes.plot(steps, losses, color=BLUE, marker="o", markersize=4, label="each step")
    else:
        means = [fmean(losses[i - MEAN_OF : i]) for i in range(MEAN_OF, len(losses) + 1)]
        axes.plot(steps, losses, color=SKY, linewidth=1, label="each step")
        axes.plot(steps[MEAN_OF - 1 :], means, color=BLUE, label=f"mean of the last {MEAN_OF} steps")
    if log.events:
        color = FAINT if len(log.events) <= MANY_EVENTS else QUIET
        axes.plot([], [], "|", color=color, markersize=9, markeredgewidth=1.3, label="event")
    if log.measured:
        heights = [max(-HIGHEST, min(one.loss, HIGHEST)) for one in log.measured]
        axes.plot(
            [one.step for one in log.measured], heights, color=GREEN, marker="s", markersize=4, label="validation"
        )
        best = log.measured[-1].best
        axes.axvline(best, color=GREEN, linewidth=1, linestyle="--", label=f"kept: step {best}")
    _marks(axes, log, steps, losses)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", ncols=1 if log.warnings else 3)


def _marks(axes: Any, log: Log, steps: Sequence[int], losses: Sequence[float]) -> None:
    """Draw every warning at the loss of its step, one marker for each name."""
    for name in dict.fromkeys(warned.name for warned in log.warnings if steps):
        at = [warned.step for warned in log.warnings if warned.name == name]
        when = f"step{'s' if len(at) > 1 else ''} {', '.join(map(str, at[:4]))}{', …' if len(at) > 4 else ''}"
        if len(at) > MANY_WARNINGS:
            when, at = f"{len(at)} times, the first at step {at[0]}", at[:1]
        heights = [losses[max(bisect_right(steps, step) - 1, 0)] for step in at]
        marker, color = MARKS.get(name, ("o", INK))
        axes.plot(at, heights, marker, color=color, markersize=8, label=f"{printable(name)}: {when}", zorder=5,
                  markeredgecolor="white", markeredgewidth=0.7, clip_on=False)  # fmt: skip


def _support(axes: Any, log: Log) -> None:
    _titled(axes, "Support and density", "stored weights", log)
    steps, support = [0], [sum(m.stored for m in log.matrices.values())]
    for event in log.events:
        steps, support = [*steps, event.step], [*support, event.total.counts["support"]]
    if log.stored_at_end is not None and log.steps:
        steps, support = [*steps, log.steps[-1].step], [*support, log.stored_at_end]
    few = len(steps) <= MANY_EVENTS
    axes.plot(
        steps,
        support,
        color=BLUE,
        marker="o" if few else "",
        markersize=5,
        linewidth=2.4,
        label="stored",
        clip_on=False,
    )
    axes.axhline(log.budget, color=ORANGE, linestyle=(0, (5, 4)), linewidth=1.2, label="target, as at load", zorder=4)
    room = max(1.25 * max(abs(n - log.budget) for n in support), 0.01 * log.budget, 1)
    axes.set_ylim(max(log.budget - room, 0), log.budget + room)
    axes.yaxis.set_major_formatter(EngFormatter(places=2 if room < 0.1 * log.budget else 1))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    numel = max(log.numel, 1)
    density = axes.secondary_yaxis("right", functions=(lambda n: n / numel, lambda share: share * numel))
    density.set_ylabel("density", color=QUIET)
    density.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))
    density.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    density.spines["right"].set_visible(True)
    axes.legend(loc="lower left", ncols=2)


def _band(axes: Any, log: Log, ratio: str, color: str) -> list[float]:
    """Draw mean and range of a ratio over the matrices of each event; return the lowest and the highest value."""
    events = [event for event in log.events if event.matrices]
    steps, values = [e.step for e in events], [[part.ratios[ratio] for part in e.matrices.values()] for e in events]
    low, high = [*map(min, values)], [*map(max, values)]
    axes.fill_between(steps, low, high, color=color, alpha=0.22, linewidth=0)
    marker = "o" if len(steps) <= MANY_EVENTS else ""
    axes.plot(steps, [*map(fmean, values)], color=color, marker=marker, markersize=4)
    if len(steps) == 1:
        axes.vlines(steps, low, high, color=color, alpha=0.3, linewidth=6)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))
    return [min(low, default=0.0), max(high, default=0.0)]


def _overlap(axes: Any, log: Log) -> None:
    _titled(axes, "Overlap with load: mean and range of matrices", "share kept", log)
    lowest, highest = _band(axes, log, "overlap", GREEN)
    room = max(0.06 * (highest - lowest), 0.0005)
    axes.set_ylim(min(lowest, highest - 0.005) - room, highest + room)


def _churn(axes: Any, log: Log) -> None:
    _titled(axes, "Churn: mean and range of matrices", "share of slots", log)
    axes.set_ylim(0, max(1.08 * _band(axes, log, "churn", BLUE)[1], 0.01))


def _counts(axes: Any, log: Log) -> None:
    _titled(axes, "Weights grown and pruned", "weights at an event", log)
    steps = [event.step for event in log.events]
    kinds = (("grown", "grown", BLUE), ("reactivated", "of these reactivated", GREEN), ("pruned", "pruned", ORANGE))
    width = min([b - a for a, b in itertools.pairwise(steps)] or [max(axes.get_xlim()[1] / 3, 1)]) * 0.26
    for index, (key, label, color) in enumerate(kinds):
        values = [event.total.counts[key] for event in log.events]
        if len(steps) <= MANY_EVENTS:
            axes.bar([step + (index - 1) * width for step in steps], values, width, color=color, label=label)
        else:
            axes.plot(steps, values, color=color, label=label, linestyle=(0, (4, 2)) if key == "pruned" else "-")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter())
    axes.legend(loc="upper right")


def _gaps(axes: Any, log: Log) -> None:
    _titled(axes, "Boundary gaps: how close choices were", "relative gap, median", log)
    lines: list[tuple[str, list[int], list[float]]] = []
    for selection in SELECTIONS:
        gaps_by_step = [
            (e.step, [p.gaps[selection] for p in e.matrices.values() if selection in p.gaps]) for e in log.events
        ]
        lines.append(
            (
                selection,
                [step for step, gaps in gaps_by_step if gaps],
                [median(gaps) for _, gaps in gaps_by_step if gaps],
            )
        )
    positive = [value for _, _, values in lines for value in values if value > 0]
    floor = min(positive, default=1e-9) / 10
    for (selection, steps, values), color, marker in zip(lines, (VERMILLION, BLUE, ORANGE), "osD", strict=True):
        if steps:
            axes.plot(steps, [max(v, floor) for v in values], color=color, label=selection,
                      marker=marker if len(steps) <= MANY_EVENTS else "", markersize=4)  # fmt: skip
    tied = sorted({step for _, steps, values in lines for step, value in zip(steps, values, strict=True) if value <= 0})
    if tied:
        axes.plot(tied, [floor] * len(tied), "v", color=INK, markersize=5, label="0: a tie decided", linestyle="none")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    if positive:
        axes.set_ylim(floor / 1.5 if tied else min(positive) / 3, max(positive) * 8)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", ncols=4)


def _power(value: float) -> str:
    """Return a power of ten as plain text, because math markup is switched off."""
    return "10" + str(round(math.log10(value))).translate(SUPERSCRIPTS) if value > 0 else ""


def _map(axes: Any, log: Log, title: str, value: Callable[[str, Sequence[Event]], float], unit: str) -> None:
    """Draw one cell per matrix: projections are rows, blocks are columns; two-sided colours if a value is negative."""
    places = {place(name): name for name in log.matrices}
    cells = {(role, block): value(name, log.events) for (role, block), name in places.items() if block is not None}
    roles = sorted({role for role, _ in cells}, key=projection_order)
    blocks = sorted({block for _, block in cells})
    axes.set_title(title)
    if not cells:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no matrix names its block", ha="center", color=QUIET, transform=axes.transAxes)
        return
    grid = [[cells.get((role, block), float("nan")) for block in blocks] for role in roles]
    reach = max(abs(v) for v in cells.values()) or 1e-3
    signed = min(cells.values()) < 0
    image = axes.pcolormesh(grid, cmap="PuOr" if signed else "YlGnBu", vmin=-reach if signed else 0, vmax=reach,
                            edgecolors="white", linewidth=0.8)  # fmt: skip
    axes.set_facecolor("#eeeeee")
    axes.invert_yaxis()
    axes.set_yticks([i + 0.5 for i in range(len(roles))], roles, color=INK)
    every = -(-len(blocks) // 24)
    axes.set_xticks([i + 0.5 for i in range(0, len(blocks), every)], [str(b) for b in blocks[::every]])
    axes.set_xlabel("block")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.012, fraction=0.03, aspect=14)
    bar.outline.set_visible(False)
    bar.set_label(unit)
    if unit.startswith("of"):
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))
    bar.ax.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))


def churn_of(name: str, events: Sequence[Event]) -> float:
    """Return the churn of a matrix, summed over the events."""
    return sum(event.matrices[name].ratios["churn"] for event in events if name in event.matrices)


def replaced_of(name: str, events: Sequence[Event]) -> float:
    """Return the share of the weights stored at load that a matrix no longer stores after the last event."""
    overlaps = [event.matrices[name].ratios["overlap"] for event in events if name in event.matrices]
    return 1 - overlaps[-1] if overlaps else 0.0


def gained_of(name: str, log: Log) -> float:
    """Return the density of a matrix after the last event less its density at load."""
    matrix = log.matrices[name]
    after = [event.matrices[name].counts["support"] for event in log.events if name in event.matrices]
    return (after[-1] - matrix.stored) / matrix.numel if after else 0.0


def _churn_map(axes: Any, log: Log) -> None:
    _map(axes, log, "Where slots moved: churn of each matrix, summed over events", churn_of, "grown ÷ slots")


def _replaced_map(axes: Any, log: Log) -> None:
    _map(axes, log, "Where weights were exchanged: those of load that are gone", replaced_of, "of weights at load")


def _density_map(axes: Any, log: Log) -> None:
    _map(axes, log, "Where density changed", lambda name, _: gained_of(name, log), "of all positions")


PANELS: dict[str, Callable[[Any, Log], None]] = {
    "loss": _loss,
    "support": _support,
    "overlap": _overlap,
    "churn": _churn,
    "counts": _counts,
    "gaps": _gaps,
    "map": _churn_map,
    "replaced": _replaced_map,
    "density": _density_map,
}
