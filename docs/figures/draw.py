"""Draw the figures of the manual: python docs/figures/draw.py [OUT]

round.svg   the round of the README, with the perplexities of docs/results/demo.md
event.svg   one event on a small matrix, computed by the engine
"""

import re
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
PLAIN = {"svg.hashsalt": "seft_ref", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9}


def perplexities() -> dict[str, str]:
    """Return the perplexity of each model in the table of the demo's page."""
    page = (HERE.parent / "results" / "demo.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| (dense|pruned|repaired) \| ([\d.]+) \|", page, re.MULTILINE))


def draw_round(out: Path) -> None:
    """Draw the way of a model: dense, pruned, stored sparse, fine-tuned, dense again."""
    found = perplexities()
    boxes = [
        ("dense model", "Hugging Face folder", f"perplexity {found['dense']}"),
        ("pruned to 70 %", "zeros in a dense file", f"perplexity {found['pruned']}"),
        ("sparse checkpoint", "the mask is stored,\nzeros are not", ""),
        ("repaired", "as sparse as before", f"perplexity {found['repaired']}"),
        ("repaired model", "Hugging Face folder,\nopens in transformers", ""),
    ]
    steps = ["seft prune", "seft convert", "seft finetune", "seft convert"]
    figure = plt.figure(figsize=(10, 2.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.06, 10.1), ylim=(0.02, 2.14))
    axes.axis("off")
    width, gap = 1.58, 0.53
    for i, (title, text, number) in enumerate(boxes):
        x = 0.02 + i * (width + gap)
        fill = BASE if i in (2, 3) else PAPER
        axes.add_patch(
            FancyBboxPatch((x, 0.75), width, 1.05, boxstyle="round,pad=0.02,rounding_size=0.08", fc=fill, ec=INK, lw=1)
        )
        axes.text(x + width / 2, 1.57, title, ha="center", va="center", color=INK, weight="bold")
        axes.text(x + width / 2, 1.18, text, ha="center", va="center", color=INK, size=8)
        axes.text(x + width / 2, 0.85, number, ha="center", va="center", color=SLOT, size=8)
        if i < len(steps):
            axes.add_patch(arrow((x + width + 0.04, 1.28), (x + width + gap - 0.04, 1.28)))
            axes.text(x + width + gap / 2, 1.92, steps[i], ha="center", color=INK, size=7.5, family="DejaVu Sans Mono")
    x = 3 * (width + gap) - gap / 2
    axes.text(
        x,
        0.28,
        "every k steps an event: drop the smallest updates, grow where the gradient is largest,\n"
        "prune what the loss misses least, until as many weights are stored as before",
        ha="center",
        va="center",
        color=INK,
        size=8,
    )
    axes.add_patch(arrow((x, 0.5), (x, 1.2)))
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
    figure, panels = plt.subplots(1, 3, figsize=(9.6, 2.9))
    matrix(panels[0], "before the event", stored, slots)
    matrix(panels[1], "drop and grow", stored | grown, kept | grown, green=grown, crossed=dropped)
    matrix(panels[2], "adapt", (stored | grown) - pruned, kept | grown, crossed=pruned)
    said = [
        f"{len(stored)} stored weights, {len(slots)} of them trained",
        f"{len(dropped)} smallest updates go, their weights stay;\n{len(grown)} grow where |gradient| is largest",
        f"{len(pruned)} weights that the loss misses least go:\n{len(stored)} are stored again",
    ]
    for panel, text in zip(panels, said, strict=True):
        panel.text(3, 4.35, text, ha="center", va="top", color=INK, size=8)
    handles = [Rectangle((0, 0), 1, 1, fc=colour, ec=GREY) for colour in (BASE, SLOT, GROWN, PAPER)]
    handles.append(Line2D([], [], color=GONE, marker="x", mew=2, lw=0))
    names = [
        "stored",
        "trained",
        "new, trained from 0",
        "not stored",
        "goes: an update in the middle, a weight on the right",
    ]
    figure.legend(handles, names, loc="lower center", ncols=5, frameon=False, fontsize=8)
    figure.subplots_adjust(left=0.02, right=0.98, top=0.88, bottom=0.3, wspace=0.12)
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
    axes.set(xlim=(-0.1, 6.1), ylim=(4.1, -0.1), aspect="equal")
    axes.axis("off")
    axes.set_title(title, color=INK, fontsize=10)
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
