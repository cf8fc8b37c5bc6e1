"""Every perplexity in the tables of evolution.md and single-runs.md is one that was recorded, or a mean of such."""

import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean

from experiments.own import OWN

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
PERPLEXITY = re.compile(r"(?<![\d.,+−-])\d\d\.\d\d(?![\d.]| %)")


def recorded():
    """Perplexities that a page may name: of single runs, those of other pages included, and means over their seeds."""
    runs = [json.loads(line)["perplexity"] for line in (RESULTS / "evolution.jsonl").read_text().splitlines()]
    for path in (RESULTS / "experiments").rglob("*.json"):
        arms = defaultdict(list)
        for run in json.loads(path.read_text())["runs"] if path.stem not in OWN else []:
            arms[run["arm"]].append(run["perplexity_after"])
        runs += [number for values in arms.values() for number in (*values, mean(values))]
    return runs


def test_the_tables_hold_what_was_recorded():
    pages = "\n".join((RESULTS / name).read_text() for name in ("evolution.md", "single-runs.md"))
    rows = [line for line in pages.splitlines() if line.startswith("|")]
    written = {float(number) for row in rows for number in PERPLEXITY.findall(row)}
    assert len(written) > 30
    values = recorded()
    # half of the page's last digit, and half of the record's, because the record has three decimals
    assert [number for number in written if min(abs(number - value) for value in values) > 0.0056] == []
