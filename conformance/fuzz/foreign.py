"""The loop over operations and readers of foreign formats: each input is read and compared with a plain definition.

`operations.py` has the operations. The other readers, each with a definition of its own, are of formats without one.
A finding is an answer other than that of the definition, an exception other than a refusal that names a clause, a
warning, too much memory, a file that is left behind, or an input that takes longer than `SECONDS`.
Start with `operations.py`.
"""

import os
import pickle
import re
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Protocol

from conformance.fuzz.content import Disagreement
from conformance.fuzz.foreign_files import Tree
from conformance.fuzz.judge import LIMIT, Verdict, bound_memory, traced
from conformance.fuzz.loop import Tally
from conformance.oracle.foreign import Refused
from formats.errors import FormatError

OPERATIONS = ("convert.from_hf", "convert.to_hf", "convert.codes", "convert.adapter")
"""Operations that take files."""

READERS = (*OPERATIONS, "patches", "seft_adapters", "steps", "packed")
"""The operations, and other readers, each a module of this folder with an object `READER`."""

BLOCK, POOL = 4000, 80
"""BLOCK executions in a row mutate the same POOL of valid inputs."""

DEEP = 50
"""Every DEEP-th execution measures memory, and asks the definition even if the reader refuses."""

FIXED, TIMES = 1 << 20, 256
"""Bytes that a reader may take: a fixed part, and a multiple of the input, because a code of 1 bit becomes 20 bytes."""

SECONDS = 20.0
"""The most seconds of one execution, enough for a machine that does other work."""

_CLAUSE = re.compile(r"[A-Z]{3}-\d{3}(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Case:
    """One input of a reader."""

    folders: dict[str, Tree] = field(default_factory=dict)
    """name of a folder -> its files"""
    memory: Any = None
    """objects that the reader gets besides folders: the base model, patches"""
    size: int = 0
    """bytes of `memory`"""
    valid: bool = False
    """whether the reader must accept it"""
    makes: tuple[str, ...] = ()
    """paths of files that the reader may make"""
    fixed: int = FIXED
    """bytes that the reader may take besides a multiple of the input"""

    @property
    def nbytes(self) -> int:
        """Number of bytes of files and objects."""
        return self.size + sum(len(raw) for tree in self.folders.values() for raw in tree.values() if raw)


class Reader(Protocol):
    """A reader of a foreign format, its inputs, and a plain definition of what they mean."""

    def grow(self, chance: Random) -> Any:
        """Return a valid input in pieces, which can be pickled."""

    def case(self, chance: Random, draft: Any, *, valid: bool) -> Case:
        """Return an input in pieces as a case, mutated unless `valid`."""

    def read(self, case: Case, place: Path) -> Any:
        """Return the answer of the reader under test to the folders in `place`, or raise its FormatError."""

    def define(self, case: Case) -> Any:
        """Return the right answer to the input; raise `Refused` if the input breaks a rule."""


def reader_of(name: str) -> Reader:
    """Return a reader of `READERS`. Its module is imported only now, because one of them needs torch."""
    reader: Reader = import_module(f"conformance.fuzz.{name}").READER
    return reader


class Cases:
    """The inputs of a seed by number: an input depends on reader, seed and number only, not on earlier inputs."""

    def __init__(self, reader: Reader, seed: int) -> None:
        self._reader, self._seed, self._block = reader, seed, -1
        self._pool: list[bytes] = []

    def _chance(self, *numbers: int) -> Random:
        return Random(":".join(map(str, (self._seed, *numbers))))  # noqa: S311 - tests need reproducible numbers

    def __getitem__(self, number: int) -> Case:
        """Return input `number`: mutated, or one in twenty valid."""
        block = number // BLOCK
        if block != self._block:
            drafts = [self._reader.grow(self._chance(-1, block, i)) for i in range(POOL)]
            self._pool, self._block = [pickle.dumps(draft) for draft in drafts], block
        chance = self._chance(number)
        draft = pickle.loads(chance.choice(self._pool))  # noqa: S301 - pickled right above
        return self._reader.case(chance, draft, valid=chance.random() < 0.05)


class TooMuch(Disagreement):
    """A reader takes more memory than is allowed."""


class ForeignJudge:
    """Gives cases to a reader, and compares its answers with the definition. A context manager.

    Args:
        reader: the reader under test.
        scratch: a folder for the files, best one in memory.
    """

    def __init__(self, reader: Reader, scratch: Path | None = None) -> None:
        self._reader, self._scratch = reader, scratch
        self._count = 0
        self.stricter: list[str] = []
        """Messages of refusals, in deep executions, of inputs that the definition accepts."""

    def __enter__(self) -> "ForeignJudge":
        memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
        self._folder = tempfile.TemporaryDirectory(dir=self._scratch or (memory if memory.is_dir() else None))
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def __call__(self, case: Case, *, deep: bool = False) -> Verdict:
        """Return the verdict on a case: the clause of the reader, empty if it accepts.

        Raises:
            Disagreement: for a finding.
        """
        try:
            return self._placed(case, deep=deep)
        except TooMuch:
            # the case is run again, because a table of the interpreter may have grown, such as that of interned strings
            return self._placed(case, deep=deep)

    def _placed(self, case: Case, *, deep: bool) -> Verdict:
        self._count += 1
        place = Path(self._folder.name) / str(self._count)
        place.mkdir()
        try:
            lay(case, place)
            return self._judge(case, place, deep=deep)
        finally:
            shutil.rmtree(place)

    def _judge(self, case: Case, place: Path, *, deep: bool) -> Verdict:
        before = listing(place)
        (clause, answer), peak = traced(lambda: _asked(lambda: self._reader.read(case, place)), deep=deep)
        allowed = case.fixed + TIMES * case.nbytes
        if peak > allowed:
            raise TooMuch(f"the reader takes {peak} bytes for {case.nbytes}, {allowed} would be enough")
        wrong = ({*listing(place)} ^ {*before}) - {f"{place}/{name}" for name in case.makes}
        if wrong:
            raise Disagreement(f"the reader makes or removes {sorted(wrong)}")
        if clause and case.valid:
            raise Disagreement(f"the reader refuses a valid input: {answer}")
        if clause and not deep:
            return Verdict((clause,))
        meant = self._meant(case)
        if clause:
            self.stricter += [] if isinstance(meant, str) else [answer]
            return Verdict((clause,))
        if isinstance(meant, str):
            raise Disagreement(f"the reader accepts, the definition says: {meant:.300}")
        if meant != answer:
            raise Disagreement(f"the reader says {_short(answer, meant)}")
        return Verdict(("",))

    def keep(self, case: Case, parent: Path) -> Path:
        """Write a case to a subfolder of `parent` named by its digest, objects as text; return that subfolder."""
        folder = parent / sha256(repr(case).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        lay(case, folder)
        (folder / "memory.txt").write_bytes(repr(case.memory).encode("utf-8", "surrogatepass"))
        return folder

    def _meant(self, case: Case) -> Any:
        """Return the definition's answer to a case, or a text that says why it refuses it."""
        try:
            return self._reader.define(case)
        except Refused as refusal:
            return f"refused: {refusal}"
        except Exception as error:  # noqa: BLE001 - a definition raises anything if an input lacks a part
            return f"refused: {type(error).__name__}: {error}"


def _asked(ask: Callable[[], Any]) -> tuple[str, Any]:
    """Return clause and message of a refusal, or an empty clause and the answer.

    Raises:
        Disagreement: if the reader raises anything else, or a refusal that names no clause.
    """
    try:
        return "", ask()
    except FormatError as error:
        if not _CLAUSE.fullmatch(error.clause) or not error.message:
            raise Disagreement(f"the reader names the clause {error.clause!r}: {error.message!r}") from error
        return error.clause, str(error)
    except Exception as error:
        raise Disagreement(f"the reader raises {type(error).__name__}: {error!s:.300}") from error


def _short(answer: Any, meant: Any) -> str:
    if isinstance(answer, dict) and isinstance(meant, dict):
        # only the first key that differs is shown, because an answer may be long
        key = min(str(key) for key in {*answer, *meant} if answer.get(key) != meant.get(key))
        answer, meant = {key: answer.get(key)}, {key: meant.get(key)}
    return f"{answer!s:.400}, meant is {meant!s:.400}"


def lay(case: Case, place: Path) -> None:
    """Write the folders of a case."""
    for folder, tree in case.folders.items():
        root = f"{place}/{folder}"
        os.mkdir(root)  # noqa: PTH102 - called a million times, and Path is slow
        for name in sorted(tree):  # sorted, so that a folder comes before its files
            if (raw := tree[name]) is None:
                os.mkdir(f"{root}/{name}")  # noqa: PTH102
                continue
            handle = os.open(f"{root}/{name}", os.O_WRONLY | os.O_CREAT)
            os.write(handle, raw)
            os.close(handle)


def listing(place: Path) -> list[str]:
    """Return the paths of all files and folders in a folder."""
    paths, waiting = [], [str(place)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                paths.append(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return sorted(paths)


# the loop ----------------------------------------------------------------------------------------


@contextmanager
def strict() -> Iterator[None]:
    """Make warnings errors, and raise a TimeoutError when the timer that `execute` starts runs out."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"one execution takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzzer_of(name: str, seed: int, scratch: Path | None = None) -> tuple[Any, Any]:
    """Return the inputs and the judge of an operation or a reader."""
    if name in OPERATIONS:
        from conformance.fuzz import operations  # imported here, because it imports the whole engine

        return operations.Inputs(name, seed), operations.OperationJudge(name)
    reader = reader_of(name)
    return Cases(reader, seed), ForeignJudge(reader, scratch)


def execute(judge: Any, tally: Tally, case: Any) -> Verdict:
    """Return the verdict on one case and count it.

    Raises:
        Disagreement: as the judge.
    """
    deep = tally.executions % DEEP == DEEP - 1
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    begun = time.perf_counter()
    verdict = judge(case, deep=deep)
    tally.slowest = max(tally.slowest, time.perf_counter() - begun)
    tally.deep += deep
    tally.add(verdict)
    return verdict


def run(name: str, seed: int, seconds: float, executions: int | None, save: Path) -> int:
    """Run one reader until the time or the executions are over; return the exit status."""
    cases, made = fuzzer_of(name, seed)
    with made as judge, strict():
        tally, end = Tally(), time.monotonic() + seconds
        while time.monotonic() < end and tally.executions != executions:
            if tally.executions == DEEP:
                # memory is bounded only now, because imports must not count as memory that a reader takes
                bound_memory(LIMIT)
            case = cases[tally.executions]
            try:
                execute(judge, tally, case)
            except Disagreement as finding:
                report(name, tally, judge)
                folder = judge.keep(case, save)
                print(
                    f"FOUND in {name}, seed {seed}, number {tally.executions}: {finding}\nsaved as {folder}", flush=True
                )
                return 1
        report(name, tally, judge)
    return 0


def report(name: str, tally: Tally, judge: Any) -> None:
    """Print the counts of a run."""
    refused = ", ".join(f"{clause} {count}" for clause, count in sorted(tally.named.items()))
    print(
        f"{name}: {tally.executions} executions in {tally.seconds:.0f} s, {tally.executions / tally.seconds:.0f} a "
        f"second, the slowest {tally.slowest:.2f} s\n{tally.accepted} accepted, refused {refused}\n"
        f"{tally.deep} with memory measured; {len(judge.stricter)} refused otherwise than the definition",
        flush=True,
    )
    for message, count in Counter(text[:200] for text in judge.stricter).most_common(8):
        print(f"    {count} {message}", flush=True)
