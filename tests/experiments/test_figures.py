"""Every figure with an interval in prose that people wrote follows from the results that are committed.

Signs are not compared, and a figure of any experiment counts, so that a figure in the wrong row is not noticed.
"""

import itertools
import json
import re
from pathlib import Path

import pytest

from experiments.statistics import paired_percent

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
WRITTEN = [
    *(RESULTS / "evolution.md", RESULTS / "single-runs.md"),
    *(ROOT / "docs" / "paper.md", ROOT / "docs" / "how-to" / "choose-settings.md"),
]
FIGURE = r"\d+\.\d+ ± \d+\.\d+"
WITHOUT_RUNS = {
    # changes of the engine that are not built; the page says so
    *("1.5 ± 0.1", "1.9 ± 0.1", "0.9 ± 0.2", "0.7 ± 0.1", "0.2 ± 0.4"),
    # arms of two pages, which have no pairs in one JSON
    "7.6 ± 4.8",
}
"""Figures of evolution.md that no committed run gives."""


@pytest.fixture(scope="module")
def known():
    """Figures of all generated pages, and the per cents between every two arms of an experiment, without signs."""
    pages = [*(RESULTS / "experiments").rglob("*.md"), *RESULTS.glob("*.md")]
    figures = {
        figure
        for page in pages
        if page not in WRITTEN
        for figure in re.findall(FIGURE, page.read_text(encoding="utf-8"))
    }
    for path in (RESULTS / "experiments").rglob("*.json"):
        arms: dict[str, dict[int, float]] = {}
        for run in json.loads(path.read_text(encoding="utf-8"))["runs"]:
            if "arm" in run:
                arms.setdefault(run["arm"], {})[run["seed"]] = run["perplexity_after"]
        for one, other in itertools.permutations(arms.values(), 2):
            if one.keys() == other.keys() and len(one) > 1:
                percent = paired_percent(one, other)
                figures.add(f"{abs(percent.mean):.1f} ± {percent.half_width:.1f}")
    return figures | {shorter(figure, digits) for figure in figures for digits in (1, 2)}


def shorter(figure, digits):
    """Return a figure with fewer digits behind each point."""
    return " ± ".join(f"{float(x):.{max(len(x.partition('.')[2]) - digits, 1)}f}" for x in figure.split(" ± "))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_a_figure_of_a_page_follows_from_runs(page, known):
    text = page.read_text(encoding="utf-8")
    assert sorted(set(re.findall(FIGURE, text)) - known - WITHOUT_RUNS) == []


def test_no_exception_outlives_its_reason(known):
    text = WRITTEN[0].read_text(encoding="utf-8")
    assert {figure for figure in WITHOUT_RUNS if figure in known or figure not in text} == set()


def test_a_figure_of_a_decision_follows_from_runs(known):
    decisions = [line for line in (ROOT / "SPEC.md").read_text("utf-8").splitlines() if re.match(r"\| D\d+ \|", line)]
    assert len(decisions) > 100
    wrong = {line.split("|")[1]: set(re.findall(FIGURE, line)) - known - WITHOUT_RUNS for line in decisions}
    assert {number: figures for number, figures in wrong.items() if figures} == {}
