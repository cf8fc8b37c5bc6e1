"""One execution of the fuzzer: three readers get the same file and must agree; the first one's memory is bounded."""

import resource
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from conformance.cases.profiles import requires_zstd
from conformance.fuzz import first_reader
from conformance.fuzz.c_library import CCommand, CLibrary
from conformance.fuzz.content import Content, Disagreement, integers
from conformance.fuzz.parts import take_apart
from conformance.oracle import second_reader

LIMIT = 1 << 30
"""Bytes of data that the process may take beyond what it has at the start; past them a reader gets a MemoryError."""

READER_FIXED, READER_TIMES = 48 << 20, 64
"""Bytes that the first reader may take: a fixed part for several arrays of 2^20 rows (FMT-056), and a multiple of the
file."""

TOGETHER = 500
"""Number of inputs that one process of the reader in C with sanitizers gets."""

Answer = TypeVar("Answer")

_LINE = ("dtype", "shape", "nnz", "encoding", "row_pointers_sha256", "columns_sha256", "values_sha256")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answers of the readers to one input."""

    clauses: tuple[str, ...]
    """the clause that each reader named, first reader first; empty strings if it was accepted"""

    @property
    def accepted(self) -> bool:
        """Return whether the first reader accepted the input."""
        return not self.clauses[0]


class Judge:
    """Hands each input to the three readers and compares their answers. A context manager.

    Each input gets a new file, because a memory map of an older one may still be alive.

    Args:
        scratch: a folder for the files, best one in memory.
        bounded: bound the memory of the process (FMT-096).
    """

    def __init__(self, scratch: Path | None = None, *, bounded: bool = True) -> None:
        memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
        self._folder = tempfile.TemporaryDirectory(dir=scratch or (memory if memory.is_dir() else None))
        self.path = Path(self._folder.name)
        self.c = CLibrary(self.path)
        self._count = 0
        self._waiting: list[tuple[bytes, str]] = []
        self._sanitized = CCommand(self.path)
        if bounded:
            # before the bound is set, because compiled loops must not count as memory that a reader takes
            first_reader.warm_up(self.path)
            bound_memory(LIMIT)

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._folder.cleanup()

    def __call__(self, raw: bytes, *, deep: bool = False) -> Verdict:
        """Return the verdict on a file.

        Args:
            raw: its bytes.
            deep: also measure memory, and compare the first reader with its other entry points.

        Raises:
            Disagreement: readers disagree, take too much memory, or raise a wrong exception.
        """
        self._count += 1
        if len(self._waiting) >= TOGETHER:
            self.flush()
        path = self.path / str(self._count)
        path.write_bytes(raw)
        try:
            return self._judge(raw, path, deep=deep)
        finally:
            path.unlink()

    def flush(self) -> None:
        """Give the collected inputs to one process of the reader in C with sanitizers.

        Raises:
            Disagreement: it crashes or names another clause; `culprit` is the input.
        """
        waiting, self._waiting = self._waiting, []
        complaint = self._sanitized.complaint([raw for raw, _ in waiting], [clause for _, clause in waiting])
        if complaint is not None:
            number, text = complaint
            raise Disagreement(f"the third reader with sanitizers says {text}", waiting[number][0])

    def _judge(self, raw: bytes, path: Path, *, deep: bool) -> Verdict:
        first, peak = traced(
            lambda: _asked("the first reader", first_reader.REFUSAL, lambda: first_reader.read(path)), deep=deep
        )
        if deep:
            self._deep(raw, path, peak, first)
        second = _asked("the second reader", second_reader.Refused, lambda: _second(path))
        third = self._third(raw)
        self._waiting.append((raw, third if isinstance(third, str) else ""))
        clauses = tuple("" if isinstance(answer, Content) else answer for answer in (first, second, third))
        needs_zstd = requires_zstd(raw)
        if isinstance(first, Content):
            expected: Any = "FMT-043" if needs_zstd else first
            for reader, answer in (("second", second), ("third", third)):
                if answer != expected:
                    raise Disagreement(f"the first reader accepts, the {reader} says {_short(answer, first)}")
            if needs_zstd and (deep or self._count % 8 == 0):
                self._expand(path, first)
        elif "" in clauses[1:]:
            raise Disagreement(f"the first reader says {first}, the others {clauses[1:]}")
        return Verdict(clauses)

    def _expand(self, path: Path, first: Content) -> None:
        """Write a compressed file without compression, and compare the answers of the other readers with `first`."""
        again = path.with_suffix(".expanded")
        for entry in take_apart(path.read_bytes()).entries.values():
            for section in entry["sections"].values():
                if "codec" in section and not section["bytes"] < section["raw_bytes"] <= 1024 * section["bytes"]:
                    raise Disagreement(f"a section is read that is compressed as {section}, against FMT-141")
        first_reader.expand(path, again)
        try:
            answers = (_second(again), self._third(again.read_bytes()))
        finally:
            again.unlink()
        if answers != (first, first):
            raise Disagreement("what was compressed is something else for the others once it is expanded")

    def _third(self, raw: bytes) -> "Content | str":
        code, clause, lines = self.c.judge(raw)
        if code not in (0, 1) or (code == 1) != bool(clause):
            raise Disagreement(f"the third reader ends with {code} {clause!r}: memory past its account")
        if code:
            return clause
        about, *tensors = lines
        texts = (second_reader.spell(about[key]) for key in ("attributes", "delta", "scales", "tied"))
        tensor_rows = {t["name"]: (t["dtype"], tuple(t["shape"]), *(t[key] for key in _LINE[4:])) for t in tensors}
        return Content((about["kind"], about["state"], *texts), tensor_rows)

    def _deep(self, raw: bytes, path: Path, peak: int, first: "Content | str") -> None:
        """Check the first reader's memory (FMT-096) and its other entry points: violations, rows, writing (FMT-161)."""
        allowed = READER_FIXED + READER_TIMES * (len(raw) + expanded(raw))
        if peak > allowed:
            raise Disagreement(f"the first reader takes {peak} bytes for {len(raw)}, {allowed} would be enough")
        violated = _asked("check", (), lambda: first_reader.violations(path))
        if bool(violated) != isinstance(first, str):
            raise Disagreement(f"the first reader says {first!r:.40}, all its violations are {violated}")
        if isinstance(first, Content):
            _asked("rows", (), lambda: first_reader.rows(path))
            again = path.with_suffix(".again")
            if _asked("writing", (), lambda: first_reader.rewritten(path, again)) != first:
                raise Disagreement("what was read and written again is something else")


def bound_memory(room: int) -> None:
    """Limit the process to `room` bytes of data more than it has now; beyond that it gets a MemoryError."""
    status = Path("/proc/self/status")
    if status.exists():
        used = next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if "VmData" in line)
        resource.setrlimit(resource.RLIMIT_DATA, (used + room, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _asked(who: str, refusal: Any, ask: Callable[[], Any]) -> Any:
    """Return the answer of a reader, or the clause that it names; any other exception becomes a Disagreement."""
    try:
        return ask()
    except refusal as error:
        return error.clause
    except Exception as error:
        raise Disagreement(f"{who} raises {type(error).__name__}: {error!s:.300}") from error


def traced(call: Callable[[], Answer], *, deep: bool) -> tuple[Answer, int]:
    """Return what `call` returns, and the peak of the bytes that it allocated; 0 unless `deep`."""
    if not deep:
        return call(), 0
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        # stopped even if the call raises, because tracing makes Python thirty times as slow
        tracemalloc.stop()


def expanded(raw: bytes) -> int:
    """Return the bytes to add to the size of a file in its memory bound, as sections expand 1,024 times (FMT-141)."""
    return 1024 * len(raw) // READER_TIMES if b"raw_bytes" in raw else 0


def _second(path: Path) -> Content:
    checkpoint = second_reader.read(path)
    tensors = {}
    for name, t in checkpoint.tensors.items():
        support = [None if a is None else integers(a) for a in (t.row_pointers, t.columns)]
        tensors[name] = (t.dtype, tuple(t.shape), *support, sha256(t.bits).hexdigest())
    texts = map(second_reader.spell, (checkpoint.attributes, checkpoint.delta, checkpoint.scales, checkpoint.tied))
    return Content((checkpoint.kind, checkpoint.state_sha256, *texts), tensors)


def _short(read: Any, content: Content) -> str:
    if not isinstance(read, Content):
        return str(read)
    answer, expected = (read.about, read.tensors), (content.about, content.tensors)
    return f"something else: {answer!s:.300} for {expected!s:.300}"
