"""Which mutants each case refuses (`registry/signatures.json`, written by the self-test), and small sets of cases.

few = covering(cases, signatures())      cases that refuse as many mutants as all of them do, the most useful first
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from conformance.cases.case import Case

__all__ = ["SIGNATURES", "covering", "refused_by", "signatures"]

SIGNATURES = Path(__file__).parents[1] / "registry" / "signatures.json"


def signatures(path: Path = SIGNATURES) -> dict[str, list[str]]:
    """Return for the id of each case the names of the mutants that fail it."""
    table: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return table


def refused_by(cases: Iterable[Case], table: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the names of the mutants that at least one of the cases refuses."""
    return {name for case in cases for name in table.get(case.id, ())}


def covering(cases: Sequence[Case], table: Mapping[str, Sequence[str]]) -> list[Case]:
    """Return cases that refuse every mutant that all of them refuse, and show every clause that all of them show.

    Each is the one that refuses most of the mutants that are left; of equals the first in the order of the ids. Then
    comes a case for each clause that has none yet.
    """
    kills = {case.id: set(table.get(case.id, ())) for case in cases}
    ordered = sorted(cases, key=lambda case: case.id)
    uncovered = refused_by(cases, table)
    chosen: dict[str, Case] = {}
    while uncovered:
        best = max(ordered, key=lambda case: len(kills[case.id] & uncovered))
        chosen[best.id] = best
        uncovered -= kills[best.id]
    shown = {name for case in chosen.values() for name in case.clauses}
    for case in cases:
        if set(case.clauses) - shown:
            chosen[case.id] = case
            shown |= set(case.clauses)
    return list(chosen.values())
