"""Read the log of a run (TRN-010), one JSON object per line; the run may have ended, been stopped, or still go on."""

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from seft_cli import console

LOG_VERSION = 1
LARGEST, MOST = sys.float_info.max, 2**63 - 1
COUNTS = ("dropped", "grown", "cancelled", "pruned", "reactivated", "refilled", "slots", "support", "start")
RATIOS = ("churn", "overlap")
ORIGIN = ("model", "text")
SELECTIONS = ("drop", "grow", "adapt")


class LogError(console.Refused):
    """A log that cannot be read; the message names the line."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A target matrix as it was at load."""

    name: str
    shape: tuple[int, ...]
    stored: int
    slots: int

    @property
    def numel(self) -> int:
        """The number of positions, stored or not."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Step:
    """A step; a number that the log does not have is NaN."""

    step: int
    loss: float
    lr: float = math.nan
    gradient_norm: float = math.nan
    seconds: float = math.nan


@dataclass(frozen=True, slots=True)
class Part:
    """The numbers of an event for one matrix, or their sums over all matrices; sums have no ratios and no gaps."""

    counts: Mapping[str, int]
    ratios: Mapping[str, float] = field(default_factory=dict)
    gaps: Mapping[str, float] = field(default_factory=dict)
    """relative gaps of the selections that have a boundary on both sides (SEL-008)"""


@dataclass(frozen=True, slots=True)
class Event:
    """An event: the sums over all matrices, and each matrix by name."""

    step: int
    fraction: float
    total: Part
    matrices: Mapping[str, Part]


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement on validation data: loss in nats a target."""

    step: int
    loss: float
    best: int
    """the step with the smallest loss so far"""


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning as the run wrote it."""

    step: int
    name: str
    message: str


@dataclass(slots=True)
class Log:
    """A run as its log records it; steps, events, measurements and warnings ascend by step."""

    settings: Mapping[str, Any]
    matrices: Mapping[str, Matrix]
    budget: int
    origin: Mapping[str, Any] = field(default_factory=dict)
    """digests of the model and the text, if the log has them"""
    steps: list[Step] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    warnings: list[Warned] = field(default_factory=list)
    stored_at_end: int | None = None
    """None if the run has not ended"""

    @property
    def numel(self) -> int:
        """The number of positions of all target matrices."""
        return sum(matrix.numel for matrix in self.matrices.values())


def read_log(path: Path) -> Log:
    """Read a log. If a step appears twice, as after resuming, the later line counts; a cut last line is skipped."""
    return parse_log(path, path.read_bytes())


def parse_log(path: Path, data: bytes) -> Log:
    """Read the bytes of a log; errors name the path."""
    *lines, last = data.split(b"\n")
    reader = _Reader(path)
    for line in lines:
        reader.take(line)
    if last:
        reader.take(last, may_be_cut=True)
    return reader.done()


def same_run(log: Log, settings: Mapping[str, Any], matrices: Mapping[str, Matrix], origin: Mapping[str, Any]) -> bool:
    """Return whether a run may continue a log (TRN-010).

    It may if matrices and settings are equal, the name of the preset aside, and the digests that both have are equal.
    """
    old, new = ({k: v for k, v in each.items() if k != "preset"} for each in (log.settings, settings))
    shared = log.origin.keys() & origin.keys()
    return old == new and log.matrices == matrices and all(log.origin[key] == origin[key] for key in shared)


class _Reader:
    """Parses line after line; `number` is the line that an error names."""

    def __init__(self, path: Path) -> None:
        self.path, self.number = path, 0
        self.log: Log | None = None
        self.steps: dict[int, Step] = {}
        self.events: dict[int, Event] = {}
        self.measured: dict[int, Measured] = {}
        self.warnings: dict[tuple[int, str], Warned] = {}
        self.kinds: dict[str, Callable[[Mapping[str, Any], Log], None]] = {
            "step": self._step,
            "event": self._event,
            "validation": self._validation,
            "warning": self._warning,
            "end": self._end,
        }

    def take(self, line: bytes, *, may_be_cut: bool = False) -> None:
        """Parse a line; with `may_be_cut`, skip one that begins as an object and is not whole."""
        self.number += 1
        try:
            record = json.loads(line.decode("utf-8"), parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            if may_be_cut and line.startswith(b"{"):
                return
            self._refuse(f"not JSON in UTF-8 ({error})")
        if not isinstance(record, dict):
            self._refuse("no JSON object")
        kind = record.get("type")
        if kind == "run":
            self._run(record)
        elif self.log is None:
            self._refuse("a log begins with a line of type run; is this the log of a run?")
        elif isinstance(kind, str) and kind in self.kinds:
            self.kinds[kind](record, self.log)
        else:
            self._refuse(f"type is {kind!r}, must be run, step, event, validation, warning or end")

    def done(self) -> Log:
        """Return the log of all lines that were parsed."""
        if self.log is None:
            raise LogError(f"{self.path} has no whole line; is this the log of a run?")
        self.log.steps = [self.steps[step] for step in sorted(self.steps)]
        self.log.events = [self.events[step] for step in sorted(self.events)]
        self.log.measured = [self.measured[step] for step in sorted(self.measured)]
        self.log.warnings = [self.warnings[key] for key in sorted(self.warnings)]
        return self.log

    def _run(self, record: Mapping[str, Any]) -> None:
        if record.get("log") != LOG_VERSION:
            self._refuse(f"log is {record.get('log')!r}, this reader knows version {LOG_VERSION}")
        settings, matrices = self._of(record, "settings", dict), {}
        for item in self._of(record, "matrices", list):
            shape = self._of(item, "shape", list)
            if not all(type(n) is int and n > 0 for n in shape):
                self._refuse(f"shape is {shape}, must be a list of sizes")
            name = self._of(item, "name", str)
            matrices[name] = Matrix(name, tuple(shape), self._count(item, "stored"), self._count(item, "slots"))
        origin = {key: self._of(record, key, str) for key in ORIGIN if key in record}
        log = Log(settings, matrices, self._count(record, "budget"), origin)
        if self.log is None:
            self.log = log
        elif not same_run(self.log, settings, matrices, origin):
            self._refuse("another run begins here, with other settings, model or text; one log holds one run")
        self.log.stored_at_end = None

    def _step(self, record: Mapping[str, Any], _: Log) -> None:
        step = self._count(record, "step", least=1)
        others = (self._number(record, key, math.nan) for key in ("lr", "gradient_norm", "seconds"))
        self.steps[step] = Step(step, self._number(record, "loss"), *others)

    def _event(self, record: Mapping[str, Any], log: Log) -> None:
        step, parts = self._count(record, "step", least=1), {}
        for item in self._of(record, "matrices", list):
            name = self._of(item, "name", str)
            if name not in log.matrices:
                self._refuse(f"the matrix {name!r} is not among those of the run")
            ratios = {key: self._ratio(item, key) for key in RATIOS}
            # gradient_norm is absent if ḡ is not kept at all positions (TRN-009)
            if item.get("gradient_norm") is not None:
                ratios["gradient_norm"] = self._not_negative(item, "gradient_norm")
            boundaries = self._of(item, "boundaries", dict)
            parts[name] = Part(self._counts(item), ratios, {k: g for k in SELECTIONS for g in self._gap(boundaries, k)})
        total = Part(self._counts(record))
        self.events[step] = Event(step, self._number(record, "fraction"), total, parts)

    def _gap(self, boundaries: Mapping[str, Any], selection: str) -> list[float]:
        """Return a list with the relative gap of a selection; empty if the selection has no gap."""
        boundary = boundaries.get(selection)
        if boundary is None:
            return []
        gap = self._ratio(boundary, "gap", math.nan)
        return [] if math.isnan(gap) else [gap]

    def _validation(self, record: Mapping[str, Any], _: Log) -> None:
        step, best = self._count(record, "step", least=1), self._count(record, "best", least=1)
        self.measured[step] = Measured(step, self._number(record, "loss"), best)

    def _warning(self, record: Mapping[str, Any], _: Log) -> None:
        step, name = self._count(record, "step"), self._of(record, "name", str)
        self.warnings[step, name] = Warned(step, name, self._of(record, "message", str))

    def _end(self, record: Mapping[str, Any], log: Log) -> None:
        self._count(record, "step")
        log.stored_at_end = self._count(record, "stored")

    def _counts(self, record: Mapping[str, Any]) -> dict[str, int]:
        return {key: self._count(record, key) for key in COUNTS}

    def _of(self, record: Any, key: str, kind: type) -> Any:
        if not isinstance(record, dict):
            self._refuse(f"{key} is looked for in {str(record)[:40]!r}, which is no object")
        if not isinstance(record.get(key), kind):
            what = "an object" if kind is dict else "a list" if kind is list else "a text"
            self._refuse(f"{key} is {'missing' if key not in record else 'not ' + what}")
        return record[key]

    def _count(self, record: Any, key: str, least: int = 0) -> int:
        value = self._number(record, key)
        if type(value) is not int or not least <= value <= MOST:
            self._refuse(f"{key} is {value!r}, must be an integer of at least {least}")
        return value

    def _ratio(self, record: Any, key: str, default: float | None = None) -> float:
        value = self._not_negative(record, key, default)
        if value > MOST:
            self._refuse(f"{key} is {value!r}, must be at most {MOST}")
        return value

    def _not_negative(self, record: Any, key: str, default: float | None = None) -> float:
        value = self._number(record, key, default)
        if value < 0:
            self._refuse(f"{key} is {value!r}, must not be negative")
        return value

    def _number(self, record: Any, key: str, default: float | None = None) -> float:
        """Return a finite number, or the default if it is absent or null."""
        if not isinstance(record, dict):
            self._refuse(f"{key} is looked for in {str(record)[:40]!r}, which is no object")
        value = record.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int | float) or type(value) is bool or not abs(value) <= LARGEST:
            self._refuse(f"{key} is {'missing' if key not in record else 'not a finite number'}")
        return value

    def _refuse(self, why: str) -> NoReturn:
        raise LogError(f"{self.path}, line {self.number}: {why}") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
