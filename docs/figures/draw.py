"""Draw the figures of the manual: python docs/figures/draw.py [OUT]

round.svg   the round of the README, with the perplexities of docs/results/demo.json
event.svg   one event on a small matrix, computed by the engine
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import Window
from seft_ref.topology.csr import flat, from_flat
from seft_ref.update.delta import Base, Delta, new_delta
from seft_ref.update.evolve import Event, Part, evolve
from seft_ref.update.pools import pools_of
from seft_ref.update.rules import Rule

HERE = Path(__file__).resolve().parent
INK, GREY, PAPER = "#1b1f24", "#8a929b", "#ffffff"
BASE, SLOT, GROWN, GONE = "#c9d6e8", "#2f6db3", "#2a9d62", "#c8553d"
WIDTH = 5.0
"""Inches. A phone shows a picture of this width so large that its text, of 10 points and more, can be read."""
EVENTS = {
    "active-only": "every {} steps the smallest updates are dropped,\nand as many grow where the gradient is largest",
}
"""What an event does, by preset."""
PLAIN = {"svg.hashsalt": "seft_ref", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 11}


def draw_round(out: Path) -> None:
    """Draw the demo: a model dense, pruned and repaired, its perplexities, and what an event does."""
    demo = json.loads((HERE.parent / "results" / "demo.json").read_text(encoding="utf-8"))
    perplexity = {row["model"]: f"{row['perplexity']:.1f}" for row in demo["rows"]}
    figure = plt.figure(figsize=(WIDTH, 2.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, 2.2))
    axes.axis("off")
    width, gap, middle = 1.32, 0.5, 1.37
    for i, (model, name) in enumerate({"dense": "dense", "pruned": "70 % pruned", "repaired": "70 % pruned"}.items()):
        x = 0.02 + i * (width + gap)
        box = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "ec": INK, "fc": PAPER if model == "dense" else BASE}
        axes.add_patch(FancyBboxPatch((x + 0.02, middle - 0.42), width - 0.04, 0.84, **box))
        axes.text(x + width / 2, middle + 0.23, name, ha="center", va="center", color=INK)
        number = {"size": 16, "weight": "bold", "color": INK}
        axes.text(x + width / 2, middle - 0.15, perplexity[model], ha="center", va="center", **number)
        if model != "repaired":
            axes.add_patch(arrow((x + width + 0.02, middle), (x + width + gap - 0.02, middle)))
            command = {"dense": "seft prune", "pruned": "seft finetune"}[model]
            axes.text(x + width + gap / 2, 1.98, command, ha="center", color=INK, size=10, family="DejaVu Sans Mono")
    axes.text(0.04, 0.69, "perplexity on held-out text", color=INK, size=10)
    event = EVENTS[demo["preset"]].format(demo["size"]["evolve_every"])
    axes.text(WIDTH - 0.04, 0.06, event, ha="right", color=INK, size=10, linespacing=1.3)
    axes.add_patch(arrow((2 * width + 1.5 * gap, 0.5), (2 * width + 1.5 * gap, middle - 0.06)))
    save(figure, out)


def arrow(start: tuple[float, float], end: tuple[float, float]) -> FancyArrowPatch:
    """Return an arrow between two points."""
    return FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, lw=1, color=INK)


def an_event() -> tuple[Base, Delta, Event]:
    """Return a matrix of 4 × 6 before one event, and the event."""
    # adapt by |ḡ · W|, because this example has only a mean gradient and token-fisher needs those of single tokens
    rule, shape = Rule(adapt="sensitivity"), (4, 6)
    values = {0: 5.0, 3: -2.0, 4: 0.3, 7: 1.5, 8: -4.0, 11: 2.5, 13: 3.0, 16: -0.2, 18: 2.0, 20: -3.5, 23: 1.0}
    base = Base(from_flat(shape, np.array(list(values))), np.array(list(values.values())))
    delta = new_delta(shape, np.array([3, 8, 13, 20]), base.values)
    delta.values[:] = [0.6, -0.05, 0.9, 0.02]
    gradient = np.full(shape, 0.2)
    for position, slope in {1: 2.4, 15: -2.1, 4: 0.1, 16: 0.1, 7: 0.5}.items():
        gradient.reshape(-1)[position] = slope
    n, n_stored = np.array([2]), np.array([len(values)])
    pools = pools_of(rule, shape, budgets=[n_stored], delta_budgets=[np.array([4])])
    (seen,) = evidence([View(Window(shape, settled_steps=1, gradient=gradient), base, delta)], rule, n=n)
    (event,) = evolve([Part(base, delta, seen)], pools, n_drop=n, rule=rule)
    return base, delta, event


def draw_event(out: Path) -> None:
    """Draw the matrix before, after drop and grow, and after adapt."""
    base, delta, event = an_event()
    stored, slots = set(flat(base.topology).tolist()), set(flat(delta.topology).tolist())
    dropped, grown, pruned = (set(map(int, x)) for x in (event.dropped, event.grown, event.pruned))
    kept = slots - dropped
    figure, panels = plt.subplots(3, 1, figsize=(WIDTH, 6.2))
    matrix(panels[0], "before the event", stored, slots)
    matrix(panels[1], "drop and grow", stored | grown, kept | grown, green=grown, crossed=dropped)
    matrix(panels[2], "adapt", (stored | grown) - pruned, kept | grown, crossed=pruned)
    said = [
        f"{len(stored)} weights are stored,\n{len(slots)} of them are trained.",
        f"{len(dropped)} smallest updates go,\ntheir weights stay; {len(grown)} grow\nwhere the gradient is largest.",
        f"The {len(pruned)} weights that the\nloss misses least go:\n{len(stored)} are stored again.",
    ]
    for panel, text in zip(panels, said, strict=True):
        panel.text(6.5, 0.3, text, ha="left", va="top", color=INK, linespacing=1.3)
    handles = [Rectangle((0, 0), 1, 1, fc=colour, ec=GREY) for colour in (PAPER, BASE, SLOT, GROWN)]
    handles.append(Line2D([], [], color=GONE, marker="x", mew=2, lw=0))
    names = ["not stored", "stored", "trained", "new, trained from 0", "goes"]
    figure.legend(handles, names, loc="lower left", ncols=3, frameon=False, fontsize=10)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.95, bottom=0.11, hspace=0.22)
    save(figure, out)


def matrix(
    axes: Any,
    title: str,
    stored: set[int],
    slots: set[int],
    green: set[int] = frozenset(),  # type: ignore[assignment]
    crossed: set[int] = frozenset(),  # type: ignore[assignment]
) -> None:
    """Draw a matrix of 4 × 6, a square a position."""
    axes.set(xlim=(-0.1, 12.1), ylim=(4.1, -0.1), aspect="equal")
    axes.axis("off")
    axes.set_title(title, color=INK, fontsize=11, weight="bold", loc="left")
    for p in range(24):
        row, column = divmod(p, 6)
        fill = GROWN if p in green else SLOT if p in slots else BASE if p in stored else PAPER
        axes.add_patch(Rectangle((column, row), 1, 1, fc=fill, ec=GREY, lw=0.8))
        if p in crossed:
            for ys in ((row + 0.2, row + 0.8), (row + 0.8, row + 0.2)):
                axes.plot((column + 0.2, column + 0.8), ys, color=GONE, lw=2)


def save(figure: Any, out: Path) -> None:
    """Write a picture whose bytes depend only on the drawing, on a white background, because dark pages need one."""
    options = {"metadata": {"Date": None}} if out.suffix == ".svg" else {"dpi": 110}
    figure.savefig(out, facecolor=PAPER, **options)
    plt.close(figure)


def main(arguments: Sequence[str]) -> None:
    """Draw every figure."""
    out = Path(arguments[0]) if arguments else HERE
    end = arguments[1] if len(arguments) > 1 else "svg"
    with mpl.rc_context(PLAIN):
        draw_round(out / f"round.{end}")
        draw_event(out / f"event.{end}")


if __name__ == "__main__":
    main(sys.argv[1:])
