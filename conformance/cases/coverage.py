"""How each clause is covered: by cases, by a test of the reference, or by the reason why no test can decide it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from conformance.cases.case import Case
from conformance.cases.clauses import Clause

ELSEWHERE = Path(__file__).parents[1] / "registry" / "covered_elsewhere.json"

__all__ = ["ELSEWHERE", "Coverage", "Elsewhere", "coverage", "elsewhere"]


class Elsewhere(NamedTuple):
    """What stands for cases of a clause: what every run of the kit asks of it, or a test of the reference.

    Attributes:
        test: a test of this repository; with `every_run` it shows that a port is refused by it.
        every_run: how every run judges a port by the clause; empty if none does.
        why: why no case and no run judges it; empty if every run does.
    """

    test: str
    every_run: str = ""
    why: str = ""

    @property
    def reason(self) -> str:
        """Return why the clause has no cases, in one line."""
        if self.every_run:
            return f"judged in every run: {self.every_run}; {self.test} shows a port that breaks it"
        # the clause is not judged, because a test of the reference says nothing about a port
        return f"not judged: {self.why}; of the reference {self.test} shows it"


@dataclass(frozen=True, slots=True)
class Coverage:
    """How a clause is covered.

    Attributes:
        clause: the clause.
        cases: ids of the cases linked to it.
        reason: why it has no cases: every run judges it, a test of the reference covers it, or no test can decide it.
            Empty if it has cases, or none of them is true.
    """

    clause: Clause
    cases: tuple[str, ...]
    reason: str

    @property
    def covered(self) -> bool:
        """Return whether the clause has cases, or a reason why it has none."""
        return bool(self.cases or self.reason)


def elsewhere(path: Path = ELSEWHERE) -> dict[str, Elsewhere]:
    """Return what stands for cases, for the clauses in the table."""
    table = json.loads(path.read_text(encoding="utf-8"))
    return {clause: Elsewhere(**row) for clause, row in table.items()}


def coverage(clauses: dict[str, Clause], cases: Iterable[Case], table: dict[str, Elsewhere]) -> dict[str, Coverage]:
    """Return how every clause is covered.

    Raises:
        ValueError: a case or the table names a clause that the document does not have.
    """
    shown: dict[str, list[str]] = {name: [] for name in clauses}
    for case in cases:
        for name in case.clauses:
            if name not in shown:
                msg = f"case {case.id} is linked to {name}, which SPEC.md does not have"
                raise ValueError(msg)
            shown[name].append(case.id)
    for name in table:
        if name not in shown:
            msg = f"covered_elsewhere.json names {name}, which SPEC.md does not have"
            raise ValueError(msg)
    out = {}
    for name, clause in clauses.items():
        reason = ""
        if not shown[name] and clause.untestable:
            reason = f"untestable: {clause.untestable}"
        elif not shown[name] and name in table:
            reason = table[name].reason
        out[name] = Coverage(clause, tuple(shown[name]), reason)
    return out
