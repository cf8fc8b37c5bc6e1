"""Draw the results of benchmarks: our speed by sparsity and tokens, and memory by program and part."""

from collections.abc import Callable, Sequence
from typing import Any

PARTS = ("weights", "base", "delta", "moments")
"""The parts of the memory of a run, in the order of tables and pictures."""


def pictures_of(name: str) -> Sequence[Callable[[dict[str, Any]], Any]]:
    """Return the functions that draw the result of a benchmark, by its name."""
    kind = name.partition("-")[0]
    return {"kernels": [_picture_of_kernels], "memory": [_picture_of_memory]}.get(kind, [])


def _picture_of_kernels(told: dict[str, Any]) -> Any:
    """Return a figure of our speed against dense NumPy by sparsity, with a line for each number of tokens."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from seft_cli.log.figures import BLUE, GREEN, ORANGE, PURPLE, QUIET, VERMILLION

    shapes = [(2048, 2048), (5632, 2048), (4096, 4096)]
    shares = {"50%": 0.5, "70%": 0.7, "80%": 0.8, "90%": 0.9}
    rows = [r for r in told["rows"] if r["method"] == "ours" and r["pattern"] in shares]
    shapes = [shape for shape in shapes if any(tuple(r["shape"]) == shape for r in rows)]
    figure = Figure(figsize=(9.6, 0.6 + 2.8 * len(shapes)), layout="constrained")
    axes = figure.subplots(len(shapes), 3, sharex=True, sharey=True, squeeze=False)
    for i, shape in enumerate(shapes):
        for j, product in enumerate(("forward", "dx", "sample")):
            ax = axes[i, j]
            ax.axhline(1, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
            for n, color in zip((1, 16, 128, 512, 2048), (PURPLE, ORANGE, GREEN, BLUE, VERMILLION), strict=True):
                line = {
                    shares[r["pattern"]]: r["ratio"]
                    for r in rows
                    if r["product"] == product and tuple(r["shape"]) == shape and r["tokens"] == n
                }
                ax.plot(list(line), list(line.values()), marker="o", markersize=3, color=color, label=f"{n}")
            ax.set_yscale("log")
            ax.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["0.25", "0.5", "1", "2", "4", "8"], minor=False)
            ax.yaxis.set_minor_locator(NullLocator())
            ax.grid(visible=True)
            ax.set_title(f"{product}, {shape[0]} x {shape[1]}")
            ax.set_xticks(list(shares.values()), list(shares))
        axes[i, 0].set_ylabel("times as fast as dense NumPy")
    for ax in axes[-1]:
        ax.set_xlabel("positions not stored")
    axes[0, 0].legend(title="tokens", ncols=2)
    return figure


def _picture_of_memory(told: dict[str, Any]) -> Any:
    """Return a figure of memory: a bar for each program and sparsity, split into parts and the rest at the peak."""
    from matplotlib.figure import Figure

    from seft_cli.log.figures import BLUE, FAINT, GREEN, ORANGE, SKY

    rows = sorted(told["rows"], key=lambda row: -row["sparsity"])
    names = {"ours": "this project", "compact": "--compact", "transposed": "--transposed", "torch": "PyTorch"}
    figure = Figure(figsize=(8.4, 0.42 * len(rows) + 1.4), layout="constrained")
    ax = figure.subplots()
    labels = [f"{names[row['who']]}, {row['sparsity']:.0%}" for row in rows]
    left = [0.0] * len(rows)
    for part, color in zip(PARTS, (BLUE, SKY, GREEN, ORANGE), strict=True):
        sizes = [row["held"].get(part, 0) / 2**20 for row in rows]
        ax.barh(labels, sizes, left=left, color=color, label=part)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    rest = [max(0.0, row["peak"] / 2**20 - total) for row, total in zip(rows, left, strict=True)]
    ax.barh(labels, rest, left=left, color=FAINT, label="rest of the process at its peak")
    ax.set_xlabel("MiB")
    ax.grid(visible=True, axis="x")
    ax.legend(loc="lower right")
    return figure
