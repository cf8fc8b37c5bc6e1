"""The kill matrix: the cases that refuse each mutant, and so the clauses and cases that are shown to work.

    matrix = kill_matrix()
    matrix.kills["update.evolve: no refill"]     the ids of the cases that refuse it

A mutant whose mistake shows only on large inputs names the property that must refuse it (`Mutant.shown_by`). Its
examples count like cases, under the id property.NAME.

A case kills a mutant by a wrong answer, an answer where it expects a refusal, or a refusal under another clause. An
error, or a refusal where an answer is expected, does not count, because any nonsense program would give it. For a
mutant that is meant to refuse good input such a refusal does count.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from conformance.cases.case import Case, load_all
from conformance.cases.clauses import read_clauses
from conformance.cases.coverage import elsewhere
from conformance.judge.harness import Failure, Variant, run
from conformance.properties.running import PROPERTIES, explore
from conformance.wrong.mutants import MUTANTS, Mutant

__all__ = [
    "UNPROVEN",
    "Kill",
    "Matrix",
    "clauses_of_properties",
    "kill_matrix",
    "killing",
    "unproven",
    "variants_of",
]

UNPROVEN = Path(__file__).parent / "mutants" / "unproven.json"
SEED = "5ef7"
"""The seed of the examples of properties; a run draws another, so any seed must do."""
PREFIX = "property."
"""What precedes the name of a property in the id of a kill."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A case that refuses a mutant.

    Attributes:
        case: its id, or that of a property.
        ratio: the largest error over outputs, as a multiple of the bound, in the dtype in which it is smallest;
            infinite if an output is not compared within a bound.
    """

    case: str
    ratio: float


@dataclass(slots=True)
class Matrix:
    """The result of all mutants on all cases.

    Attributes:
        kills: for each mutant the cases that refuse it.
        clauses: the clauses of each case, and of each property that a mutant names.
        shown: for each clause of level MUST its killed mutants, by name.
        reasons: for each clause of level MUST without a killed mutant, the reason; empty if there is none.
        idle: ids of cases that kill no mutant.
    """

    kills: dict[str, list[Kill]]
    clauses: dict[str, tuple[str, ...]]
    shown: dict[str, list[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)

    @property
    def n_cases(self) -> int:
        """The number of cases, without properties."""
        return sum(not name.startswith(PREFIX) for name in self.clauses)

    def complaints(self) -> list[str]:
        """Return complaints: surviving mutants, clauses without a killed mutant or a reason, and outdated reasons."""
        problems = self.survivors()
        problems += [f"{c} has no killed mutant and no reason" for c, reason in self.reasons.items() if not reason]
        problems += [
            f"{c} has a killed mutant; take it out of {UNPROVEN.name}" for c in unproven() if self.shown.get(c)
        ]
        return problems

    def survivors(self) -> list[str]:
        """Return a complaint for each clause of a mutant of which no case refuses the mutant."""
        problems = []
        for m in MUTANTS:
            if m.name in self.kills:
                hit = {clause for kill in self.kills[m.name] for clause in self.clauses[kill.case]}
                problems += [f"{m.name} is not refused by a case of {c}" for c in m.clauses if c not in hit]
        return problems

    def signatures(self) -> dict[str, list[str]]:
        """Return case -> sorted names of the mutants that it kills."""
        names_of: dict[str, list[str]] = {}
        for name, kills in self.kills.items():
            for kill in kills:
                names_of.setdefault(kill.case, []).append(name)
        return {case: sorted(names) for case, names in sorted(names_of.items())}


def unproven(path: Path = UNPROVEN) -> dict[str, str]:
    """Return clause -> reason why no mutant breaks it, from the file."""
    table: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return table


def variants_of(mutant: Mutant) -> list[Variant]:
    """Return the variants of a mutant: called in this process, in the dtypes in which it is wrong."""
    port = mutant.port()
    return [Variant(port, dtype) for dtype in ([mutant.dtype] if mutant.dtype else ["float64", "float32"])]


def proves(case: Case, failure: Failure, *, refuses_good: bool = False) -> bool:
    """Return whether a failure of a mutant counts as a kill by the case."""
    refused = failure.output == "" and "got the refusal" in failure.detail
    return failure.status == "fail" and (bool(case.refused) or refuses_good or not refused)


def clauses_of_properties() -> dict[str, tuple[str, ...]]:
    """Return the clauses of each property that a mutant names, by property.NAME."""
    names = {m.shown_by for m in MUTANTS if m.shown_by}
    return {PREFIX + name: PROPERTIES[name].clauses for name in sorted(names)}


def killing(mutant: Mutant, cases: Iterable[Case]) -> list[Kill]:
    """Return the cases that kill a mutant, and the property that it names; only cases of its operation are run."""
    kills = _by_property(mutant)
    for case in cases:
        if case.op != mutant.op or (mutant.only_refusals and not case.refused):
            continue
        # each case has a run of its own, because a failing case would block others
        (result,) = run([case], variants_of(mutant))
        failures = [f for f in result.failures if proves(case, f, refuses_good=mutant.refuses_good)]
        if failures:
            kills.append(Kill(case.id, _nearest(failures)))
    return kills


def _by_property(mutant: Mutant) -> list[Kill]:
    """Return the kill by the property that a mutant names, in a list that is empty if there is none."""
    if not mutant.shown_by:
        return []
    prop = PROPERTIES[mutant.shown_by]
    if not prop.seeded:
        msg = f"{mutant.name}: {prop.name} is not seeded, so its examples depend on hypothesis"
        raise ValueError(msg)
    variants = [variant for variant in variants_of(mutant) if prop.fits(variant)]
    failing = [explore(prop, variant, SEED, examples=1, seconds=60.0).seen for variant in variants]
    failures = [example.failure for example in failing if example is not None and example.failure.status == "fail"]
    return [Kill(PREFIX + prop.name, _nearest(failures))] if failures else []


def _nearest(failures: Sequence[Failure]) -> float:
    """Return the largest ratio over outputs, in the variant for which it is smallest."""
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


def kill_matrix(
    jobs: int | None = None,
    mutants: Sequence[Mutant] = MUTANTS,
    progress: Callable[[str], None] = lambda name: None,
) -> Matrix:
    """Run mutants on all cases of the operations they replace, in `jobs` processes; return the matrix.

    progress  called with the name of each mutant that was run
    """
    cases = load_all()
    # the slowest operations come first, because the last process would otherwise run one of them alone
    slow = Counter(case.op for case in cases)
    names = [m.name for m in sorted(mutants, key=lambda m: (m.op != "train.run", m.only_refusals, -slow[m.op]))]
    workers = jobs or min(os.cpu_count() or 1, 8)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start) as pool:
        kills = {}
        for name, of_name in pool.map(_one, names, chunksize=2):
            kills[name] = of_name
            progress(name)
    return matrix_of({m.name: kills[m.name] for m in mutants}, cases)


def matrix_of(kills: dict[str, list[Kill]], cases: Sequence[Case]) -> Matrix:
    """Return the matrix of given kills, with the clauses that are shown and the cases that kill nothing."""
    matrix = Matrix(kills, {case.id: case.clauses for case in cases} | clauses_of_properties())
    reasons = {clause: one.reason for clause, one in elsewhere().items()} | unproven()
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
