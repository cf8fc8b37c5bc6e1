"""The log of an evaluation on tasks: the result of each item, so that a stopped evaluation can go on (TSK-011).

    {"schema": "seft.eval-log/1", "model": ..., "items": ..., ...}      model, items and settings of the results
    {"task": "arc_easy", "item": 17, ...}                               one line an item, in blocks

The lines of a block are written together. A block that is not whole is computed again, because computing only its
missing items would change the last bits of the results.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path

from seft_ref.errors import TaskError

SCHEMA = "seft.eval-log/1"
Block = tuple[str, tuple[int, ...]]
"""The name of a task, and the numbers of the items that are computed together."""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The result of one item.

    Attributes:
        task: the name of its task.
        item: its number in the data file, counted from 0; for MMLU-Redux over all rows that are marked ok.
        part: the part of the task that it belongs to, such as a subject; empty if the task has none.
        gold: the number of the right choice, or the right answer.
        scores: metric to 0 or 1.
        nats: the log-probability of each choice; None for an answer that is generated.
        greedy: for each choice, whether greedy generation would give it; None for an answer that is generated.
        text: the answer that was generated; None for choices.
    """

    task: str
    item: int
    part: str
    gold: int | str
    scores: Mapping[str, float]
    nats: tuple[float, ...] | None = None
    greedy: tuple[bool, ...] | None = None
    text: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return the result as a JSON object, without fields that are None and without an empty part."""
        return {key: value for key, value in asdict(self).items() if value is not None and (key, value) != ("part", "")}


def result_of(content: Mapping[str, object]) -> ItemResult:
    """Return the result that a line of a log has as JSON object.

    Raises:
        ValueError: for an object that `as_json` did not make.
    """
    named = {f.name for f in fields(ItemResult)}
    values = dict(content)
    if not {"task", "item", "gold", "scores"} <= set(values) <= named:
        raise ValueError("it has other keys than a result")
    scores = values["scores"]
    if not isinstance(scores, dict) or not all(score in (0.0, 1.0) for score in scores.values()):
        raise ValueError("its scores are not 0 or 1")
    for key in ("nats", "greedy"):
        if isinstance(several := values.get(key), list):
            values[key] = tuple(several)
    return ItemResult(**{"part": "", **values})  # type: ignore[arg-type]


def digest_of_folder(folder: Path) -> str:
    """Return a hexadecimal SHA-256 of the names and bytes of the files of a model folder, hidden ones left out."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            with file.open("rb") as stream:
                digest.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()


def digest_of_items(items: object) -> str:
    """Return a hexadecimal SHA-256 of content that JSON can write."""
    return hashlib.sha256(json.dumps(items, ensure_ascii=True).encode()).hexdigest()


class Log:
    """A log file to which blocks are appended; `results` are those of the whole blocks that it had when opened."""

    def __init__(
        self,
        path: Path,
        header: Mapping[str, object],
        blocks: Sequence[Block],
        metrics: Mapping[str, tuple[str, ...]],
    ) -> None:
        """Open a log, or begin a new one.

        blocks   all blocks of the evaluation, in order
        metrics  the metrics of each task

        Raises:
            TaskError: TSK-011 for a file that is no log, or the log of another evaluation.
        """
        self.path, self._metrics = path, metrics
        self.results: list[ItemResult] = []
        self.n_blocks = 0
        self._first = (json.dumps({"schema": SCHEMA, **header}) + "\n").encode()
        content = path.read_bytes() if path.exists() else b""
        n_bytes = self._take(content, header, blocks) if content else 0
        # nothing is written before the first block, so that a run that fails at once leaves no file
        self._begun = n_bytes > 0
        if self._begun and n_bytes < len(content):
            os.truncate(path, n_bytes)

    def _take(self, content: bytes, header: Mapping[str, object], blocks: Sequence[Block]) -> int:
        """Take over the whole blocks of a log, and return how many bytes they have together with its first line."""
        lines = content.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        if not lines:
            # a writer that was killed in the first line has left no results
            if self._first.startswith(content):
                return 0
            raise self._refused("is no log of an evaluation")
        self._check_header(lines[0], header)
        n_bytes, rest = len(lines[0]), iter(lines[1:])
        for task, items in blocks:
            block = list(islice(rest, len(items)))
            if len(block) < len(items):
                break
            results = [*self._parsed(block)]
            if [(result.task, result.item) for result in results] != [(task, item) for item in items]:
                raise self._refused("has items in another order than this evaluation")
            if any(tuple(result.scores) != self._metrics[task] for result in results):
                raise self._refused(f"has other metrics of {task} than this evaluation")
            self.results += results
            self.n_blocks += 1
            n_bytes += sum(map(len, block))
        if next(rest, None) is not None:
            raise self._refused("has more items than this evaluation")
        return n_bytes

    def _parsed(self, block: Sequence[bytes]) -> Iterator[ItemResult]:
        for line in block:
            try:
                content = json.loads(line)
                if not isinstance(content, dict):
                    raise self._refused("has a line that is no JSON object")
                yield result_of(content)
            except (ValueError, RecursionError) as error:
                raise self._refused(f"has a damaged line: {error}") from error

    def _check_header(self, line: bytes, header: Mapping[str, object]) -> None:
        try:
            was = json.loads(line)
        except (ValueError, RecursionError):
            was = None
        if not isinstance(was, dict) or was.get("schema") != SCHEMA:
            raise self._refused("is no log of an evaluation")
        # compared after a pass through JSON, because that turns tuples into lists
        for key, value in json.loads(json.dumps(dict(header))).items():
            if was.get(key) != value:
                differs = "" if key in ("model", "items") else f": {was.get(key)}, now {value}"
                raise self._refused(f"was written with other {key}{differs}")

    def _refused(self, why: str) -> TaskError:
        return TaskError("TSK-011", f"{self.path} {why}; name another file, or remove it to start anew")

    def append(self, results: Sequence[ItemResult]) -> None:
        """Write the results of one block, and wait until the disk has them."""
        lines = b"".join((json.dumps(result.as_json(), allow_nan=False) + "\n").encode() for result in results)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab" if self._begun else "wb") as stream:
            stream.write(lines if self._begun else self._first + lines)
            stream.flush()
            os.fsync(stream.fileno())
        self._begun = True
