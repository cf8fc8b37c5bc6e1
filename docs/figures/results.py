"""Draw one picture for each page of results whose figures stand in tables: python docs/figures/results.py [OUT]

growth.svg       times as fast as NumPy and PyTorch, by shape and machine
large.svg        seconds and memory of the stages of a 7B run
fuzzing.svg      inputs of every kind, accepted and refused
kill-matrix.svg  mutants by operation, and how many cases refuse each

Each is drawn from the tables of the page of its name in docs/results, or from the JSON beside it.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parents[1] / "results"
INK, GREY, BLUE, GREEN, RED, PALE = "#1b1f24", "#8a929b", "#2f6db3", "#2a9d62", "#c8553d", "#c9d6e8"
PLAIN = {"svg.hashsalt": "seft_ref", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 10}


def rows_of(page: str, heading: str = "") -> list[list[str]]:
    """Return the cells of the tables of a page, of one section if a heading is given."""
    text = (RESULTS / f"{page}.md").read_text(encoding="utf-8")
    if heading:
        text = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def draw_growth() -> Any:
    """Draw the ratios of every shape with their range."""
    machines = ("Intel", "AMD (family 25)", "AMD (family 26)")
    sections = [f"{machine}, {threads}" for machine in machines for threads in ("1 thread", "2 threads")]
    figure, panels = plt.subplots(1, 2, figsize=(5.2, 6), sharey=True)
    for panel, column, peer, goal in zip(panels, (6, 7), ("NumPy", "PyTorch"), (0.91, 2.0), strict=True):
        y, middles = 0.0, []
        for section in sections:
            for cells in rows_of("growth", section)[1:]:
                middle, low, high = map(float, re.findall(r"\d+\.\d+", cells[column]))
                tokens = int(cells[1])
                panel.plot([low, high], [y, y], color=GREY, lw=1)
                panel.plot([middle], [y], "o" if tokens < 1000 else "s", color=BLUE if tokens < 1000 else RED, ms=4)
                y -= 1
            middles.append(y + 4.5)
            y -= 1
        panel.axvline(goal, color=GREEN, lw=1, ls="--")
        panel.set(xscale="log", xlim=(0.28, 6), xticks=(0.5, 1, 2, 4), title=f"times as fast as {peer}")
        panel.set_yticks(middles, [section.replace(", ", "\n") for section in sections])
        panel.set_xticklabels(("0.5", "1", "2", "4"))
        panel.minorticks_off()
    panels[1].plot([], [], "o", color=BLUE, label="512 tokens")
    panels[1].plot([], [], "s", color=RED, label="2048 tokens")
    panels[1].plot([], [], "--", color=GREEN, label="goal")
    figure.legend(loc="lower center", ncols=3, frameon=False)
    return figure


def draw_large() -> Any:
    """Draw the seconds and the memory of each stage."""
    rows = rows_of("large", "What each stage takes")[1:]
    stages = [(cells[0], float(cells[1]), float(cells[2].split()[0])) for cells in rows]
    names = [name for name, _, _ in stages]
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.2, 2.2), sharey=True)
    for panel, values, title in ((left, [s for _, s, _ in stages], "seconds"), (right, [g for *_, g in stages], "GiB")):
        bars = panel.barh(names, values, color=BLUE)
        panel.bar_label(bars, padding=3)
        panel.set(title=title, xlim=(0, max(values) * 1.2))
    left.invert_yaxis()
    right.axvline(16, color=GREEN, lw=1, ls="--")
    right.set(title="GiB; the goal is 16", xlim=(0, 17))
    return figure


def draw_fuzzing() -> Any:
    """Draw the inputs of every kind, all runs together, and how many were accepted."""
    kinds: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for file, kind in (("singles", "single files"), ("folders", "folders and chains"), ("foreign", "")):
        told = json.loads((RESULTS / "fuzzing" / f"{file}.json").read_text(encoding="utf-8"))
        executions, accepted = (told["columns"].index(name) for name in ("executions", "accepted"))
        for row in told["rows"]:
            if "`" in row[0]:
                reader = re.search(r"--reader (\w+)", row[0])
                count = kinds[reader[1].replace("_", " ") if reader else kind]
                count[0] += row[executions]
                count[1] += row[accepted] or 0
    figure, panel = plt.subplots(figsize=(5.2, 3))
    for y, (executions, accepted) in enumerate(kinds.values()):
        panel.barh(y, executions / 1e6, color=BLUE, alpha=0.45)
        panel.barh(y, accepted / 1e6, color=BLUE)
        panel.text(executions / 1e6 + 0.01, y, f"{executions:,}", va="center", color=INK)
    panel.set_yticks(range(len(kinds)), list(kinds))
    most = max(executions for executions, _ in kinds.values())
    panel.set(xlim=(0, most / 1e6 * 1.15), xlabel="million inputs; the dark part was accepted")
    panel.invert_yaxis()
    return figure


def draw_kills() -> Any:
    """Draw the mutants of every area, by the number of cases that refuse them."""
    bands = ((1, 1, "1 case", RED), (2, 4, "2 to 4 cases", PALE), (5, 10**6, "5 cases or more", BLUE))
    areas: defaultdict[str, list[int]] = defaultdict(list)
    for operation, _, _, cases in rows_of("kill-matrix", "Mutants")[1:]:
        areas[operation.strip("`").split(".")[0]].append(int(cases))
    names = sorted(areas, key=lambda area: -len(areas[area]))
    figure, panel = plt.subplots(figsize=(5.2, 0.21 * len(names) + 1))
    start = [0] * len(names)
    for low, high, label, colour in bands:
        counts = [sum(low <= n <= high for n in areas[name]) for name in names]
        panel.barh(names, counts, left=start, color=colour, label=label)
        start = [a + b for a, b in zip(start, counts, strict=True)]
    panel.set(xlabel="mutants, by the number of cases that refuse them")
    panel.invert_yaxis()
    panel.legend(loc="lower right", frameon=False)
    return figure


DRAWN = {"growth": draw_growth, "large": draw_large, "fuzzing": draw_fuzzing, "kill-matrix": draw_kills}


def main() -> None:
    """Draw all pictures beside their pages, or into the folder that the command line names."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    with mpl.rc_context(PLAIN):
        for name, draw in DRAWN.items():
            figure = draw()
            for panel in figure.axes:
                panel.spines[["top", "right"]].set_visible(False)
            figure.savefig(out / f"{name}.svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    main()
