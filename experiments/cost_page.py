"""The result page of an experiment on time and memory: each arm as a multiple of the first, paired by round."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.markup import bullets, measured_by, prose, table, title_of
from experiments.page import Report, head, settings_tables
from experiments.picture import COLOURS, PLAIN, library, save
from experiments.run import minutes_of
from experiments.statistics import Estimate, estimate, paired
from experiments.table import Row

NOTE = """
    Seconds are means of a step, its share of the events included, from medians of steps with an event and without;
    *last pass* is what follows the last step. Memory is the largest resident size of the process, texts and library
    included. Multiples are geometric means over rounds of the row's number divided by that of the first row in the
    same round, with their 95 % interval. In a round every arm runs once, one after the other.
"""


@dataclass(frozen=True, slots=True)
class Multiple:
    """The time and memory of a row, as multiples of those of the first row."""

    row: Row
    seconds: Estimate
    memory: Estimate


def seconds_a_step(run: Mapping[str, Any]) -> float:
    """Return the mean seconds of a step, its share of the events included."""
    return 60 * minutes_of(run) / len(run["seconds"])


def _gib(run: Mapping[str, Any]) -> float:
    return float(run["peak_memory_bytes"]) / 2**30


def multiples(report: Report) -> list[Multiple]:
    """Return the time and memory of all rows but the first, as multiples of those of the first."""
    first, *others = report.rows()

    def ratio(row: Row, what: Any) -> Estimate:
        logs = [
            {seed: math.log(value) for seed, value in report.values(one, lambda run, _: what(run)).items()}
            for one in (row, first)
        ]
        of = paired(*logs)
        low, mean, high = (math.exp(x) for x in (of.low, of.mean, of.high))
        return Estimate(of.n, mean, None if of.half_width is None else (high - low) / 2)

    return [Multiple(row, ratio(row, seconds_a_step), ratio(row, _gib)) for row in others]


def markdown(report: Report) -> str:
    """Return the page as Markdown."""
    experiment = report.experiment
    parts = [
        f"# {title_of(report.command, experiment.title)}",
        prose(experiment.question),
        f"![{report.name}: time and memory of every run]({report.name}.svg)",
        "## What came out",
        bullets(sentences(report)),
        "## Results",
        _results(report),
        prose(NOTE),
        "## What one would expect",
        prose(experiment.expected),
        "## How it was measured",
        measured_by(report.command, report.name),
        *map(prose, head(report)),
        "## Settings",
        *settings_tables(report),
    ]
    return "\n\n".join(parts) + "\n"


def sentences(report: Report) -> list[str]:
    """Return a sentence for each row that compares its time and memory with those of the first row."""
    first = report.rows()[0].label
    return [
        f"`{m.row.label}` takes {_times(m.seconds)} the time of `{first}` and {_times(m.memory)} its memory."
        for m in multiples(report)
    ]


def _times(of: Estimate) -> str:
    return f"{of.mean:.2f}" + ("" if of.half_width is None else f" ± {of.half_width:.2f}") + " times"


def _results(report: Report) -> str:
    against = {m.row.label: m for m in multiples(report)}
    rows = []
    for row in report.rows():
        runs = [*report.runs[row.arm].values()]
        of, found = [estimate([what(run) for run in runs]) for what in (seconds_a_step, _gib)], against.get(row.label)
        rows.append(
            [
                row.label,
                f"{of[0].mean:.2f}",
                f"{fmean(run['seconds_finish'] for run in runs):.1f}",
                f"{of[1].mean:.2f}",
                "1" if found is None else _times(found.seconds).removesuffix(" times"),
                "1" if found is None else _times(found.memory).removesuffix(" times"),
            ]
        )
    return table(["arm", "seconds a step", "last pass, s", "GiB", "time, multiple", "memory, multiple"], rows)


def draw(report: Report, path: Path) -> None:
    """Write the picture as SVG: time and memory of every run, a row an arm."""
    mpl = library()
    from matplotlib import pyplot as plt

    with mpl.rc_context(PLAIN):
        rows = report.rows()
        figure, both = plt.subplots(1, 2, figsize=(9, 0.35 * len(rows) + 1), layout="constrained", sharey=True)
        parts = ((seconds_a_step, "seconds a step"), (_gib, "GiB, largest"))
        for axes, (what, label) in zip(both, parts, strict=True):
            for at, row in enumerate(rows):
                values = [what(run) for run in report.runs[row.arm].values()]
                axes.barh(at, fmean(values), height=0.6, color=COLOURS[at % len(COLOURS)], alpha=0.35)
                axes.scatter(values, [at] * len(values), s=12, color=COLOURS[at % len(COLOURS)])
            axes.set_xlim(left=0)
            axes.set_xlabel(label)
        both[0].set_yticks(range(len(rows)), [row.label for row in rows])
        both[0].set_ylim(len(rows) - 0.4, -0.6)
        save(figure, path)
