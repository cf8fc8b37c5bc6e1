"""One execution with folders: two readers get a base and deltas, and must agree on each folder and on the result."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from conformance.fuzz import first_reader
from conformance.fuzz.chains import Scenario
from conformance.fuzz.content import Content, Disagreement, integers
from conformance.fuzz.folders import Tree
from conformance.fuzz.judge import LIMIT, READER_FIXED, READER_TIMES, Verdict, bound_memory, traced
from conformance.oracle import second_folder

Reading = tuple[tuple[str, ...], Any]
"""The clause that each reader names for a folder, empty if it accepts, and the content from the second reader."""

KEPT = 1000
"""Number of readings that are cached, because a mutation changes one folder of a scenario, and the others recur."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reader refused the input and named this clause."""

    clause: str


class FolderJudge:
    """Gives scenarios to the two readers of folders and compares their answers. A context manager.

    Args:
        scratch: a folder for the files, best one in memory.
        bounded: bound the memory of the process (FMT-096).
    """

    def __init__(self, scratch: Path | None = None, *, bounded: bool = True) -> None:
        memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
        self._folder = tempfile.TemporaryDirectory(dir=scratch or (memory if memory.is_dir() else None))
        self.path = Path(self._folder.name)
        self._count = 0
        self._known: dict[bytes, Reading] = {}
        if bounded:
            first_reader.warm_up(self.path)
            bound_memory(LIMIT)

    def __enter__(self) -> "FolderJudge":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._folder.cleanup()

    def __call__(self, scenario: Scenario, *, deep: bool = False) -> Verdict:
        """Return the verdict on a scenario: the clause that each reader names, empty if it accepts the scenario.

        Raises:
            Disagreement: readers disagree, take too much memory, or raise a wrong exception.
        """
        self._count += 1
        scratch = self.path / str(self._count)
        try:
            paths = [lay(tree, scratch / str(i)) for i, tree in enumerate(scenario)]
            return self._judge(scenario, paths, deep=deep)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _judge(self, scenario: Scenario, paths: list[Path], *, deep: bool) -> Verdict:
        contents = []
        for tree, path in zip(scenario, paths, strict=True):
            clauses, content = self._read(tree, path, deep=deep)
            if any(clauses):
                return Verdict(clauses)
            contents.append(content)
        if len(paths) == 1:
            return Verdict(("", ""))
        first = _asked("the first reader", first_reader.REFUSAL, lambda: first_reader.applied(paths[0], paths[1:]))
        second = _asked(
            "the second reader",
            second_folder.Refused,
            lambda: content_of(second_folder.apply(contents[0], contents[1:])),
        )
        clauses = tuple(answer.clause if isinstance(answer, Refusal) else "" for answer in (first, second))
        if first != second and not all(clauses):
            raise Disagreement(f"applying: the first reader says {_short(first)}, the second {_short(second)}")
        return Verdict(clauses)

    def _read(self, tree: Tree, path: Path, *, deep: bool) -> Reading:
        """Return the readings of one folder, from the cache if the readers have read the same files before."""
        key = sha256(repr(tree).encode()).digest()
        if deep or key not in self._known:
            reading = _agreed(path, size_of(tree), deep=deep)
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[key] = reading
        return self._known[key]


def lay(tree: Tree, folder: Path) -> Path:
    """Write the files of a folder; return its path."""
    folder.mkdir(parents=True)
    for name, raw in tree.items():
        if raw is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(raw)
    return folder


def size_of(tree: Tree) -> int:
    """Return the number of bytes of all files of a folder."""
    return sum(len(raw) for raw in tree.values() if raw is not None)


def _agreed(path: Path, size: int, *, deep: bool) -> Reading:
    """Return the readings of one folder, on which both readers agree.

    Raises:
        Disagreement: the readers differ, take too much memory, or raise a wrong exception.
    """
    first, peak = traced(
        lambda: _asked("the first reader", first_reader.REFUSAL, lambda: first_reader.read(path)), deep=deep
    )
    if deep:
        _look_deeper(path, peak, size, first)
    read = _asked("the second reader", second_folder.Refused, lambda: second_folder.read(path))
    second = read if isinstance(read, Refusal) else content_of(read)
    clauses = tuple(answer.clause if isinstance(answer, Refusal) else "" for answer in (first, second))
    if first == second or all(clauses):
        return clauses, read
    if clauses[1] == "FMT-043" and not clauses[0]:
        # the folder is compressed, and only the first reader supports `zstd`
        return ("FMT-043", "FMT-043"), None
    raise Disagreement(f"{path.name}: the first reader says {_short(first)}, the second {_short(second)}")


def _look_deeper(path: Path, peak: int, size: int, first: Any) -> None:
    """Check the first reader's memory (FMT-096), its violations, and writing in parts of another size (FMT-085)."""
    allowed = READER_FIXED + READER_TIMES * size
    if peak > allowed:
        raise Disagreement(f"the first reader takes {peak} bytes for {size}, {allowed} would be enough")
    violated = _asked("check", (), lambda: first_reader.violations(path))
    if bool(violated) != isinstance(first, Refusal):
        raise Disagreement(f"the first reader says {_short(first)}, all its violations are {violated}")
    if isinstance(first, Content):
        again = path.with_suffix(".again")
        if _asked("writing", (), lambda: first_reader.divided_again(path, again)) != first:
            raise Disagreement("what was read and written in parts of another size is something else")


def _asked(who: str, refusal: Any, ask: Callable[[], Any]) -> Any:
    """Return the answer of a reader, or its Refusal; any other exception becomes a Disagreement."""
    try:
        return ask()
    except refusal as error:
        return Refusal(error.clause)
    except Exception as error:
        raise Disagreement(f"{who} raises {type(error).__name__}: {error!s:.300}") from error


def content_of(read: Any) -> Content:
    """Return an answer of the second reader as a Content, so that it can be compared."""
    tensors = {}
    for name, t in read.tensors.items():
        support = [None if a is None else integers(a) for a in (t.row_pointers, t.columns)]
        tensors[name] = (t.dtype, tuple(t.shape), *support, sha256(t.bits).hexdigest())
    return Content(second_folder.spelled(read), tensors)


def _short(read: Any) -> str:
    return f"{read!s:.400}"


def save(scenario: Scenario, parent: Path) -> Path:
    """Write a scenario to a subfolder of `parent` named by its digest; return that subfolder."""
    raw = repr(scenario).encode()
    folder = parent / sha256(raw).hexdigest()[:16]
    shutil.rmtree(folder, ignore_errors=True)
    for i, tree in enumerate(scenario):
        lay(tree, folder / (f"{i}-delta" if i else "0-base"))

    return folder
