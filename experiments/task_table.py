"""The section of a result page on tasks: scores of every arm, and points above the first arm, paired by seed."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from experiments.markup import prose, table
from experiments.statistics import Estimate, estimate, paired
from experiments.table import Row

Run = Mapping[str, Any]

NOTE = """
    Scores in per cent, mean over seeds ± half of the 95 % t-interval over seeds; *mean* is that of the tasks, *points*
    what its mean is above that of the first arm, paired by seed. The interval tells of seeds, not of items: with n
    items a score of one run has a standard error of up to 50 / √n.
"""


def section(rows: Sequence[Row], of_arms: Mapping[str, Mapping[int, Run]]) -> list[str]:
    """Return the parts of the section, none if the runs have no scores; `of_arms` is arm -> seed -> run."""
    first = next(iter(of_arms[rows[0].arm].values()))
    if "scores" not in first:
        return []
    names = list(first["scores"])
    lines = []
    for row in rows:
        runs = of_arms[row.arm]
        cells = [_told(estimate([100 * run["scores"][name] for run in runs.values()])) for name in names]
        means = {seed: _mean(run) for seed, run in runs.items()}
        reference = {seed: _mean(run) for seed, run in of_arms[rows[0].arm].items()}
        points = "" if row is rows[0] else _told(paired(means, reference), "+")
        lines.append([row.label, *cells, _told(estimate([*means.values()])), points])
    return [
        "Scores of the final models on tasks:",
        table(["arm", *(f"`{name}`" for name in names), "mean", "points"], lines),
        prose(NOTE),
    ]


def _mean(run: Run) -> float:
    return 100 * fmean(run["scores"].values())


def _told(of: Estimate, sign: str = "") -> str:
    return f"{of.mean:{sign}.1f}" + ("" if of.half_width is None else f" ± {of.half_width:.1f}")
