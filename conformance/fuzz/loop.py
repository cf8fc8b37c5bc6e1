"""The loop of the fuzzer: the inputs of a seed by number, one execution, and the tally."""

import json
import pickle
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from conformance.fuzz import chains, grow
from conformance.fuzz.chains import Scenario
from conformance.fuzz.judge import Verdict
from conformance.fuzz.mutate import mutate
from conformance.fuzz.parts import CONTENT, NOTHING, Parts, take_apart
from conformance.oracle.files import Section, text

BLOCK, POOL = 4000, 80
"""BLOCK executions in a row mutate files of the same POOL of random ones."""

FOLDER_BLOCK, FOLDER_POOL = 1000, 100
"""The same for scenarios of folders, which take longer to make."""

DEEP = 256
"""Every DEEP-th execution also checks the first reader's memory and its other entry points."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A file from which mutations start; `parts` gives each mutation its own copy."""

    manifest: str
    sections: tuple[Section, ...]

    def parts(self) -> Parts:
        """Return a copy of the parts, which the caller may change."""
        return Parts(json.loads(self.manifest), [*self.sections])


@dataclass
class Tally:
    """Counts over all executions of a run."""

    executions: int = 0
    accepted: int = 0
    deep: int = 0
    named: Counter[str] = field(default_factory=Counter)
    """clause that the first reader named -> number of inputs"""
    reached: set[str] = field(default_factory=set)
    """clauses that any reader named"""
    differ: int = 0
    """refused files for which readers named different clauses (FMT-097)"""
    slowest: float = 0.0
    """seconds of the slowest execution, which shows a reader whose time grows with a stated number (FMT-056)"""
    begun: float = field(default_factory=time.monotonic)

    def add(self, verdict: Verdict) -> None:
        """Count one execution."""
        self.executions += 1
        if verdict.accepted:
            self.accepted += 1
            return
        self.named[verdict.clauses[0]] += 1
        self.reached.update(verdict.clauses)
        self.differ += len(set(verdict.clauses)) > 1

    @property
    def seconds(self) -> float:
        """The seconds since the tally began."""
        return time.monotonic() - self.begun

    def lines(self) -> list[str]:
        """Return the lines of a report."""
        speed = self.executions / max(self.seconds, 1e-9)
        refused = sum(self.named.values())
        clauses = ", ".join(f"{clause[4:]} {count}" for clause, count in sorted(self.named.items()))
        return [
            f"{self.executions} executions in {self.seconds:.0f} s, {speed:.0f} a second",
            f"{self.deep} of them deep, the slowest of the others {self.slowest:.2f} s",
            f"{self.accepted} accepted, {refused} refused, {self.differ} of them for different clauses",
            f"{len(self.named)} clauses named by the first reader, {len(self.reached - {''})} by any: FMT-",
            clauses,
        ]


class Inputs:
    """The inputs of a seed by number: an input depends on seed, number and corpus only, not on earlier inputs."""

    def __init__(self, seed: int, corpus: Sequence[bytes] = ()) -> None:
        self._seed, self._block = seed, -1
        self._corpus = [seed_file for raw in corpus if (seed_file := seed_of(raw)) is not None]
        self._pool: list[Seed] = []

    def chance(self, *numbers: int) -> Random:
        """Return the random generator of an execution or a block."""
        return Random(":".join(map(str, (self._seed, *numbers))))  # noqa: S311 - tests need reproducible numbers

    def pool(self, block: int) -> list[Seed]:
        """Return the files from which the mutations of a block start."""
        if block != self._block:
            chance = self.chance(-1, block)
            checkpoints = [grow.checkpoint(chance, 0.1) for _ in range(POOL)]
            self._pool = [Seed(text(p.manifest), tuple(p.sections)) for p in checkpoints]
            self._block = block
        return self._pool

    def pick(self, chance: Random, block: int) -> Seed:
        """Return a file to mutate: a random one, or one of the corpus."""
        if self._corpus and chance.random() < 0.25:
            return chance.choice(self._corpus)
        return chance.choice(self.pool(block))

    def __getitem__(self, number: int) -> bytes:
        """Return input `number`: a mutated file, or one in twenty a valid one."""
        chance, block = self.chance(number), number // BLOCK
        if chance.random() < 0.05:
            return grow.checkpoint(chance, 0.1).pack()
        return mutate(chance, self.pick(chance, block).parts(), self.pick(chance, block).parts())

    def mutated(self, raw: bytes, seed: int) -> bytes:
        """Return a mutation of `raw`, or of a random file if `raw` cannot be taken apart."""
        chance = self.chance(seed)
        own = seed_of(raw) if chance.random() < 0.8 else None
        return mutate(chance, (own or self.pick(chance, 0)).parts(), self.pick(chance, 0).parts())


def seed_of(raw: bytes) -> Seed | None:
    """Return the `Seed` of a file, or None if the file is too broken to be taken apart."""
    try:
        parts = take_apart(raw)
        # if sections are compressed, digests are not recomputed, because the content is not known here
        parts.seal = NOTHING if b'"codec"' in raw else CONTENT
        parts.pack()
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return Seed(text(parts.manifest), tuple(parts.sections))


class FolderInputs:
    """The scenarios of a seed by number: a scenario depends on seed and number only, not on earlier ones."""

    def __init__(self, seed: int) -> None:
        self._seed, self._block = seed, -1
        self._pool: list[bytes] = []

    def __getitem__(self, number: int) -> Scenario:
        """Return scenario `number`: a base and deltas, mutated, or one in twenty valid."""
        block = number // FOLDER_BLOCK
        if block != self._block:
            scenarios = [chains.scenario(self._chance(-1, block, i)) for i in range(FOLDER_POOL)]
            self._pool, self._block = [pickle.dumps(one) for one in scenarios], block
        chance = self._chance(number)
        return chains.spoil(chance, pickle.loads(chance.choice(self._pool)))  # noqa: S301 - pickled right above

    def _chance(self, *numbers: int) -> Random:
        return Random(":".join(map(str, (self._seed, *numbers))))  # noqa: S311 - tests need reproducible numbers


def execute(judge: Callable[..., Verdict], tally: Tally, test_case: bytes | Scenario) -> Verdict:
    """Return the verdict on one input and count it.

    Raises:
        Disagreement: as `Judge` or `FolderJudge`.
    """
    deep = tally.executions % DEEP == 0
    begun = time.perf_counter()
    verdict = judge(test_case, deep=deep)
    tally.slowest = max(tally.slowest, 0.0 if deep else time.perf_counter() - begun)
    tally.deep += deep
    tally.add(verdict)
    return verdict
