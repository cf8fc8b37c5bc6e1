"""The mutants that each case detects (`registry/signatures.json`, which the self-test writes), and small sets of cases.

few = covering(cases, signatures())      cases that detect as many mutants as all of them, the most useful first
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from conformance.cases.case import Case

__all__ = ["SIGNATURES", "covering", "refused_by", "signatures"]

SIGNATURES = Path(__file__).parents[1] / "registry" / "signatures.json"


def signatures(path: Path = SIGNATURES) -> dict[str, list[str]]:
    """Return by id of a case the names of the mutants that fail it."""
    table: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return table


def refused_by(cases: Iterable[Case], table: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the names of the mutants that fail at least one of the cases."""
    return {name for case in cases for name in table.get(case.id, ())}


def covering(cases: Sequence[Case], table: Mapping[str, Sequence[str]]) -> list[Case]:
    """Return a small subset of the cases that detects the same mutants and tests the same clauses as all of them.

    The choice is greedy: the next case is the one that detects most of the mutants not yet detected, ties by id. Then
    come cases for the clauses that have none yet.
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
