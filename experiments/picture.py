"""Draw an experiment: every run as a point, means with intervals, loss over the steps, and density."""

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.page import Report, differences, perplexity
from experiments.statistics import estimate
from experiments.table import Row
from seft_cli import console
from seft_cli.output import write_file

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b")
SMOOTH = 15
"""steps over which the pictures average a loss"""
PLAIN = {
    "svg.hashsalt": "seft_ref",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "path.simplify": False,
}


def library() -> Any:
    """Return matplotlib, set to draw without a screen.

    Raises:
        Refused: if it is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise console.Refused("pictures need matplotlib; install it with pip install -e '.[plot]'") from error
    mpl.use("svg")
    return mpl


def draw(report: Report, path: Path) -> None:
    """Write the picture as SVG; the same runs give the same bytes."""
    mpl = library()
    from matplotlib import pyplot as plt

    with mpl.rc_context(PLAIN):
        # a row may have a label of three lines
        height = max(6.0, 0.9 * len(report.rows()) + 1.2)
        figure, ((points, losses), (apart, last)) = plt.subplots(2, 2, figsize=(9, height), layout="constrained")
        _points(points, report)
        _differences(apart, report)
        _losses(losses, report)
        (_density if report.experiment.shows_density else _losses_apart)(last, report)
        save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure as SVG, whole or not at all, and close it."""
    from matplotlib import pyplot as plt

    drawn = StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    # strip the blanks that matplotlib leaves at the ends of lines
    text = "\n".join(line.rstrip() for line in drawn.getvalue().splitlines())
    write_file(path, f"{text}\n".encode())


def _points(axes: Any, report: Report) -> None:
    rows = report.rows()
    values = [report.values(row, perplexity) for row in rows]
    for seed in values[0]:
        axes.plot([v[seed] for v in values], range(len(rows)), color="#cccccc", linewidth=0.7, zorder=1)
    for at, (row, of_row) in enumerate(zip(rows, values, strict=True)):
        _row(axes, at, [*of_row.values()], _colour(report, row.arm))
    _name_rows(axes, rows)
    axes.set_xlabel("perplexity: runs (a grey line a seed), mean, 95 % interval")


def _differences(axes: Any, report: Report) -> None:
    rows = differences(report)
    for at, d in enumerate(rows):
        of_reference = report.values(d.reference, perplexity)
        values = [value - of_reference[seed] for seed, value in report.values(d.row, perplexity).items()]
        _row(axes, at, values, _colour(report, d.row.arm))
    axes.axvline(0, color="#888888", linewidth=0.7, linestyle=":")
    _name_rows(axes, [d.row for d in rows])
    references = dict.fromkeys(d.reference.label for d in rows)
    axes.set_xlabel(f"the same less {' or '.join(references)}, same seed")


def _row(axes: Any, at: int, values: Sequence[float], colour: str) -> None:
    """Draw values as points at one height, with their mean and its interval."""
    mean = estimate(values)
    axes.scatter(values, [at] * len(values), s=14, color=colour, alpha=0.6, zorder=2)
    axes.errorbar(mean.mean, at, xerr=mean.half_width, fmt="D", color=colour, markersize=5, capsize=4, zorder=3)


def _name_rows(axes: Any, rows: Sequence[Row]) -> None:
    axes.set_yticks(range(len(rows)), [row.label.replace(", ", ",\n") for row in rows])
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)


def _mean_losses(report: Report) -> dict[str, list[float]]:
    """Return the loss of every step, mean over seeds, by arm."""
    return {
        arm: [fmean(step) for step in zip(*(run["losses"] for run in runs.values()), strict=True)]
        for arm, runs in report.runs.items()
    }


def _losses(axes: Any, report: Report) -> None:
    for arm, mean in _mean_losses(report).items():
        axes.plot(*_smoothed(mean), linewidth=1, label=report.labels()[arm], **_line(report, arm))
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    axes.legend(frameon=False)


def _losses_apart(axes: Any, report: Report) -> None:
    losses = _mean_losses(report)
    for d in differences(report):
        values = [loss - of for loss, of in zip(losses[d.row.arm], losses[d.reference.arm], strict=True)]
        axes.plot(*_smoothed(values), linewidth=1, **_line(report, d.row.arm))
    axes.axhline(0, color="#888888", linewidth=0.7, linestyle=":")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss, difference")


def _smoothed(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the middles and means of windows of SMOOTH steps, because with single steps one arm hides another."""
    width = min(SMOOTH, len(values))
    starts = range(len(values) - width + 1)
    return [start + (width + 1) / 2 for start in starts], [fmean(values[start : start + width]) for start in starts]


def _density(axes: Any, report: Report) -> None:
    for arm, runs in report.runs.items():
        for run in runs.values():
            steps, supports = _supports(run)
            axes.plot(steps, supports, color=_colour(report, arm), linewidth=1, drawstyle="steps-post", alpha=0.7)
    axes.axhline(1, color="#888888", linewidth=0.7, linestyle=":")
    axes.set_xlabel("step")
    axes.set_ylabel("stored weights / at load, every run")


def _supports(run: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """Return the steps at which the support changed, and its size after each as a multiple of that at load."""
    last = len(run["losses"])
    changes = [(0, run["stored"]), *((event["step"], event["support"]) for event in run["events"])]
    changes += [(last, run["support_before_last_pass"]), (last, run["support_final"])]
    return [step for step, _ in changes], [support / run["stored"] for _, support in changes]


def _colour(report: Report, arm: str) -> str:
    return COLOURS[list(report.runs).index(arm) % len(COLOURS)]


def _line(report: Report, arm: str) -> dict[str, str]:
    """Return colour and dashes of an arm's line; lines that share a colour have other dashes."""
    dashes = ("-", "--", ":")[list(report.runs).index(arm) // len(COLOURS) % 3]
    return {"color": _colour(report, arm), "linestyle": dashes}
