"""The kill matrix: which wrong program is refused by which case, and what that says of clauses and cases.

    matrix = kill_matrix()
    matrix.kills["update.evolve: no refill"]     the ids of the cases that refuse it

A mutant is killed where a case gets a wrong answer, or an answer where it expects a refusal, or a refusal by another
clause. An error that it raises, or a refusal where an answer is expected, proves nothing about the case and counts for
nothing: any nonsense would do that. Of a mutant that is there to refuse some good input a refusal does count.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from conformance.cases.case import Case, load_all
from conformance.cases.clauses import read_clauses
from conformance.cases.coverage import elsewhere
from conformance.judge.harness import Failure, Variant, run
from conformance.wrong.mutants import MUTANTS, Mutant

__all__ = [
    "UNPROVEN",
    "Kill",
    "Matrix",
    "kill_matrix",
    "killing",
    "unproven",
    "variants_of",
]

UNPROVEN = Path(__file__).parent / "mutants" / "unproven.json"


@dataclass(frozen=True, slots=True)
class Kill:
    """A case that refuses a mutant.

    Attributes:
        case: its id.
        ratio: how many times the bound its nearest wrong output lies outside, over both dtypes; infinite where an
            output is no number within a bound.
    """

    case: str
    ratio: float


@dataclass(slots=True)
class Matrix:
    """Mutants by cases.

    Attributes:
        kills: for each mutant the cases that refuse it.
        clauses: the clauses of each case.
        shown: for each clause of level MUST its killed mutants, by name.
        reasons: for each clause of level MUST without one, why; empty where there is no reason.
        idle: ids of cases that kill no mutant.
    """

    kills: dict[str, list[Kill]]
    clauses: dict[str, tuple[str, ...]]
    shown: dict[str, list[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """Return what is wrong: a mutant that lives, or no proof and no reason for a clause, or a stale reason."""
        told = []
        for m in MUTANTS:
            hit = {clause for kill in self.kills.get(m.name, ()) for clause in self.clauses[kill.case]}
            told += [f"{m.name} is not refused by a case of {c}" for c in m.clauses if c not in hit]
        told += [f"{c} has no killed mutant and no reason" for c, reason in self.reasons.items() if not reason]
        told += [f"{c} has a killed mutant; take it out of {UNPROVEN.name}" for c in unproven() if self.shown.get(c)]
        return told

    def signatures(self) -> dict[str, list[str]]:
        """Return for each case the names of the mutants that fail there."""
        found: dict[str, list[str]] = {}
        for name, kills in self.kills.items():
            for kill in kills:
                found.setdefault(kill.case, []).append(name)
        return {case: sorted(names) for case, names in sorted(found.items())}


def unproven(path: Path = UNPROVEN) -> dict[str, str]:
    """Return for each clause that no mutant breaks the reason why."""
    table: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return table


def variants_of(mutant: Mutant) -> list[Variant]:
    """Return how a mutant is called: in this process, in the dtypes in which it is wrong."""
    port = mutant.port()
    return [Variant(port, dtype) for dtype in ([mutant.dtype] if mutant.dtype else ["float64", "float32"])]


def proves(case: Case, failure: Failure, *, refuses_good: bool = False) -> bool:
    """Tell whether a failure of a mutant says something about the case."""
    refused = failure.output == "" and "got the refusal" in failure.detail
    return failure.status == "fail" and (bool(case.refused) or refuses_good or not refused)


def killing(mutant: Mutant, cases: Iterable[Case]) -> list[Kill]:
    """Return the cases that refuse a mutant, those of its operation being asked."""
    found = []
    for case in cases:
        if case.op != mutant.op or (mutant.only_refusals and not case.refused):
            continue
        # each on its own: no case is blocked by another
        (result,) = run([case], variants_of(mutant))
        told = [f for f in result.failures if proves(case, f, refuses_good=mutant.refuses_good)]
        if told:
            found.append(Kill(case.id, _nearest(told)))
    return found


def _nearest(failures: Sequence[Failure]) -> float:
    """Return the smallest over variants of the largest ratio over outputs."""
    worst: dict[str, float] = {}
    for f in failures:
        worst[f.variant] = max(worst.get(f.variant, 0.0), f.ratio)
    return min(worst.values(), default=math.inf)


def _one(name: str) -> tuple[str, list[Kill]]:
    mutant = next(m for m in MUTANTS if m.name == name)
    return name, killing(mutant, _CASES)


_CASES: list[Case] = []


def _start() -> None:
    _CASES[:] = load_all()


def kill_matrix(jobs: int | None = None) -> Matrix:
    """Return the matrix of all mutants over all cases of the operations they replace."""
    cases = load_all()
    # the slowest operations first, so that no process is left alone with one of them
    slow = Counter(case.op for case in cases)
    names = [m.name for m in sorted(MUTANTS, key=lambda m: (m.op != "train.run", m.only_refusals, -slow[m.op]))]
    workers = jobs or min(os.cpu_count() or 1, 8)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start) as pool:
        found = dict(pool.map(_one, names, chunksize=2))
    return matrix_of({m.name: found[m.name] for m in MUTANTS}, cases)


def matrix_of(kills: dict[str, list[Kill]], cases: Sequence[Case]) -> Matrix:
    """Return what kills say of clauses and cases."""
    matrix = Matrix(kills, {case.id: case.clauses for case in cases})
    reasons = {clause: f"{why}: {test}" for clause, (test, why) in elsewhere().items()} | unproven()
    for clause in read_clauses().values():
        if clause.level != "MUST":
            continue
        named = [m.name for m in MUTANTS if clause.id in m.clauses]
        matrix.shown[clause.id] = [
            name for name in named if any(clause.id in matrix.clauses[kill.case] for kill in kills.get(name, ()))
        ]
        if not matrix.shown[clause.id]:
            matrix.reasons[clause.id] = f"untestable: {clause.untestable}" if clause.untestable else ""
            matrix.reasons[clause.id] = matrix.reasons[clause.id] or reasons.get(clause.id, "")
    killers = {kill.case for row in kills.values() for kill in row}
    matrix.idle = [case.id for case in cases if case.id not in killers]
    return matrix
