"""Try properties on ports: draw examples from a seed and shrink one that fails, within a time limit."""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np

from conformance.cases.case import Case
from conformance.cases.ops import AREAS
from conformance.cases.profiles import blocking
from conformance.judge.harness import Variant
from conformance.judge.judgement import BLOCKED, PropertyResult
from conformance.properties.artifacts import folder_of, save
from conformance.properties.draws import SMALL, Chosen, Counted
from conformance.properties.trial import REGISTER, Enough, Found, Made, NotOffered, Property, Seen, Trial

try:
    import hypothesis
    from hypothesis import strategies
except ImportError:
    hypothesis = None
    strategies = None

__all__ = ["PROPERTIES", "Explored", "Largest", "explore", "largest_arrays", "run_properties"]

# modules enter their properties in REGISTER as they are loaded
for _found in iter_modules([str(Path(__file__).parent)]):
    if _found.name.split("_")[0] in AREAS:
        import_module(f"conformance.properties.{_found.name}")

PROPERTIES: dict[str, Property] = REGISTER
"""Every property by name."""

DIRECTED = 40
"""Number of examples that are the same in every run. They have every feature that a property must see."""
EXAMPLES = 20
"""Number of examples of a property that a run tries by default; a seeded property then has `seeded` examples."""
SHRINKING = 10.0
"""Seconds in which a failing example is made smaller."""
LEAST = 6
"""The least number of directed examples of a property whose examples are long."""
_NOBODY: Any = None
"""Takes the place of a port while an example is made and no port is asked."""
WITHOUT = "hypothesis is not installed; pip install hypothesis"


@dataclass(slots=True)
class Explored:
    """The result of one property on one variant.

    Attributes:
        examples: how many were tried.
        seen: the smallest failing example, None if none failed.
        saw: features of the examples, counted.
        always: features of the directed examples alone, counted.
        missing: the operation that the port does not offer, empty if it offers all.
        late: the time was over before all examples were tried.
        asked_new: operations that answered inputs which nobody could know before the run.
    """

    examples: int = 0
    seen: Seen | None = None
    saw: Counter[str] = field(default_factory=Counter)
    always: Counter[str] = field(default_factory=Counter)
    missing: str = ""
    late: bool = False
    asked_new: set[str] = field(default_factory=set)

    def unseen(self, prop: Property) -> list[str]:
        """Return the features that the examples of a property must have and did not have.

        Drawn examples do not count, because with another seed they may lack a feature. They count only if there are no
        directed ones, or if the time was over.
        """
        counted = self.saw if prop.seeded or self.late else self.always
        return [what for what in prop.sees if not counted[what]]


def run_properties(
    ports: Sequence[Variant],
    profiles: Sequence[str],
    seed: str,
    *,
    examples: int = 100,
    only: str | None = None,
    clause: str | None = None,
    artifacts: Path,
    seconds: float = 60.0,
    bad: Collection[str] = (),
    progress: Callable[[str], None] = lambda name: None,
    partly: bool = False,
) -> list[PropertyResult]:
    """Try the properties of the profiles on the ports; return one result for each.

    seed       128 bits, hexadecimal; the same gives the same examples
    examples   of each property on each variant, besides the directed ones
    only       a glob of names
    clause     a glob of clauses
    artifacts  folder for the subfolders of failing properties
    seconds    for the examples of a property; at most SHRINKING of them to shrink a failing one
    bad        operations that fail their cases: a property that asks one, or rests on one, is blocked (PRT-012)
    partly     if a port lacks some operations of a property, ask it the others; such a result supports no claim
    progress   called with the name of each property that is tried, before it is

    Raises:
        ValueError: the seed is no hexadecimal number of at most 128 bits.
    """
    _number(seed)
    results = []
    for prop in PROPERTIES.values():
        if prop.profile not in profiles or (only is not None and not fnmatchcase(prop.name, only)):
            continue
        if clause is not None and not any(fnmatchcase(one, clause) for one in prop.clauses):
            continue
        behind = blocking(prop.ops, bad)
        if behind:
            skipped = f"{BLOCKED}: {behind} fails its cases"
            results.append(PropertyResult(prop.name, prop.clauses, prop.profile, skipped=skipped))
            continue
        progress(prop.name)
        results.append(_judge(prop, ports, seed, examples, artifacts, seconds, partly=partly))
    return results


def _number(seed: str) -> int:
    try:
        number = int(seed, 16)
    except ValueError:
        number = -1
    if not 0 <= number < 2**128:
        msg = f"a seed is a hexadecimal number of at most 128 bits, not {seed!r}"
        raise ValueError(msg)
    return number


def _judge(
    prop: Property, ports: Sequence[Variant], seed: str, examples: int, artifacts: Path, seconds: float, *, partly: bool
) -> PropertyResult:
    result = PropertyResult(prop.name, prop.clauses, prop.profile, text=prop.text)
    begun = time.monotonic()
    if hypothesis is None:
        result.skipped = WITHOUT
        return result
    meant = [v for v in ports if prop.fits(v)]
    whole = bool(meant) or not partly
    if not whole:
        meant = [v for v in ports if prop.part(v).ops]
    ran = 0
    # one variant is enough for operations on numbers alone, because they have a single dtype
    for variant in meant[:1] if prop.scalar else meant:
        restarts = getattr(variant.port, "restarts", None)
        explored = explore(prop.part(variant), variant, seed, examples=examples, seconds=seconds)
        if restarts is not None:
            # restarts count once, because the port may have been lost many times while an example was shrunk
            variant.port.restarts = min(variant.port.restarts, restarts + 1)  # type: ignore[attr-defined]
        result.examples += explored.examples
        result.asked_new = tuple(sorted({*result.asked_new, *explored.asked_new}))
        for what in prop.tells:
            result.counts[what] = result.counts.get(what, 0) + explored.saw[what]
        if not whole and explored.seen is None and not explored.asked_new:
            # the body asks nothing without the answers of an operation that is not offered
            continue
        if explored.missing:
            result.skipped = f"{variant.port.name} does not offer {explored.missing}"
            continue
        ran += 1
        if explored.seen is not None:
            failure = explored.seen.failure
            output = f"{failure.output}: " if failure.output else ""
            result.failure = f"{failure.variant}: {output}{failure.detail}"
            result.artifact = save(folder_of(artifacts, prop.name), explored.seen, variant.port.name, seed)
            break
        unseen = explored.unseen(prop)
        # a body may leave an example early if it gets no answer, so that a part of a property lacks features
        if unseen and whole:
            result.skipped = f"the kit's fault: {explored.examples} examples without {', '.join(unseen)}" + (
                "; the time was over, raise --timeout" if explored.late else ""
            )
            break
    if ran and not result.skipped.startswith("the kit's fault"):
        result.skipped = ""
    elif not ran:
        result.skipped = result.skipped or f"the port does not offer {_lacking(prop, ports)}"
    result.seconds = time.monotonic() - begun
    return result


def _lacking(prop: Property, ports: Sequence[Variant]) -> str:
    offered = {op for v in ports for op in v.offers or ()}
    missing = [op for op in prop.ops if op not in offered]
    return f"{', '.join(missing or prop.ops)} in a way that this property can be asked"


def explore(
    prop: Property, variant: Variant, seed: str, *, examples: int, seconds: float, log: list[Case] | None = None
) -> Explored:
    """Try a property on one variant of a port, and return the result."""
    explored = Explored()
    trial = Trial(prop, variant, time.monotonic() + seconds, explored.saw, log=log, asked_new=explored.asked_new)
    # there are at least two, because the first of each lot is the simplest example and shows little
    examples, requested = max(examples // prop.cost, min(examples, 2)), examples
    small = examples // 2 if prop.cost == 1 else 0
    try:
        if prop.seeded:
            _seeded(prop, trial, explored, seed, max(prop.seeded, prop.seeded * requested // EXAMPLES))
            return explored
        # small examples come first, because most mistakes show in them and they shrink sooner
        _random(prop, trial, explored, seed, small, seconds, SMALL[0])
        if explored.seen is None:
            _random(prop, trial, explored, seed, examples - small, seconds)
        if explored.seen is None and _directed(prop, trial, explored):
            explored.seen = trial.failing
            # only hypothesis can shrink, so search with it for a smaller example of the failure
            aside = Explored()
            trial.until = time.monotonic() + min(seconds, SHRINKING)
            _random(prop, trial, aside, seed, 10 * examples, seconds)
            explored.seen = aside.seen or explored.seen
    except Enough:
        explored.late = True
    except NotOffered as missing:
        explored.missing = str(missing)
    return explored


def _seeded(prop: Property, trial: Trial, explored: Explored, seed: str, examples: int) -> None:
    """Try the examples of a seeded property, which the seed of the run alone decides."""
    # there is no time limit over all examples, because a slow port must answer them too; each call has one (PRT-009)
    trial.new, trial.until = True, math.inf
    for number in range(examples):
        explored.examples += 1
        example = _made(prop, seed, number)
        explored.saw.update(example.saw_)
        try:
            for case in example.cases:
                trial.ask(case)
        except Found:
            explored.seen = trial.failing
            return


@lru_cache(maxsize=4)
def _made(prop: Property, seed: str, number: int) -> Made:
    """Return example `number` of a seeded property; cached, because all variants of a port share it."""
    word = int.from_bytes(sha256(f"{_number(seed):032x} {prop.name}".encode()).digest()[:7], "big")
    # there is no port, because `Made` collects the cases and asks nothing
    example = Made(prop, Variant(_NOBODY, "float64"), math.inf)
    prop.body(Counted(word, number), example)
    return example


def _directed(prop: Property, trial: Trial, explored: Explored) -> bool:
    """Try the examples that are the same in every run; return whether one failed."""
    word = int.from_bytes(sha256(prop.name.encode()).digest()[:7], "big")
    trial.new, before, trial.saw_ = False, trial.saw_, explored.always
    try:
        for number in range(max(DIRECTED // prop.cost, LEAST)):
            explored.examples += 1
            prop.body(Counted(word, number), trial)
    except Found:
        return True
    finally:
        trial.saw_ = before
        before.update(explored.always)
    return False


def _random(
    prop: Property, trial: Trial, explored: Explored, seed: str, examples: int, seconds: float, size: int | None = None
) -> None:
    """Try examples that hypothesis makes; shrink one that fails until nothing smaller fails or the time is over."""
    if not examples:
        return
    smaller, first = False, True
    trial.new = False

    def tried(data: Any) -> None:
        nonlocal smaller, first
        if not smaller:
            explored.examples += 1
        # the first example is not new, because hypothesis begins with the simplest one whatever the seed
        trial.new, first = not first, False
        try:
            prop.body(Chosen(data, strategies, size), trial)
        except Found:
            # keep the last example that fails, because hypothesis goes on with smaller ones only
            explored.seen = trial.failing
            if not smaller:
                smaller, trial.until = True, time.monotonic() + min(seconds, SHRINKING)
            raise

    settings = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=hypothesis.Verbosity.quiet,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    word = int.from_bytes(sha256(f"{_number(seed):032x} {prop.name} {size}".encode()).digest()[:16], "big")
    runs = hypothesis.seed(word)(settings(hypothesis.given(strategies.data())(tried)))
    try:
        runs()
    except Found:
        pass
    except Enough:
        explored.late = explored.seen is None
        if explored.seen is None:
            raise
    except (hypothesis.errors.HypothesisException, BaseExceptionGroup):
        # hypothesis complains if an example failed once and not again; that failure counts all the same
        if explored.seen is None:
            raise


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest array that a run asks of an operation, or expects from it: numbers, shape, and who asks it."""

    numbers: int
    shape: tuple[int, ...]
    by: str


def largest_arrays(cases: Iterable[Case], variant: Variant, names: Collection[str] = PROPERTIES) -> dict[str, Largest]:
    """Return by operation the largest array of some cases and of the properties with these names.

    variant  a right program, which properties ask whose examples depend on answers
    """
    largest: dict[str, Largest] = {}

    def note(case: Case, by: str) -> None:
        for shape in _shapes((case.inputs, case.expected)):
            numbers = math.prod(shape)
            if numbers > (largest[case.op].numbers if case.op in largest else 0):
                largest[case.op] = Largest(numbers, shape, by)

    for case in cases:
        note(case, case.id)
    for prop in (PROPERTIES[name] for name in names):
        asked = [case for number in range(prop.seeded) for case in _made(prop, "0", number).cases]
        if not prop.seeded:
            # the examples that are the same in every run, because what hypothesis draws depends on its version
            _directed(prop, Trial(prop, variant, math.inf, log=asked), Explored())
        for case in asked:
            note(case, prop.name)
    return largest


def _shapes(value: Any) -> Iterator[tuple[int, ...]]:
    """Yield the shape of every array, and of every list of numbers, in a value."""
    if isinstance(value, np.ndarray):
        yield value.shape
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _shapes(entry)
    elif isinstance(value, list | tuple):
        if all(isinstance(entry, int | float) for entry in value):
            yield (len(value),)
            return
        for entry in value:
            yield from _shapes(entry)
