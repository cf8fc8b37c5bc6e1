"""Write the log of a run (TRN-010): one JSON object per line, and each line in a single write."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seft_cli import console
from seft_cli.log.read import Log, parse_log, same_run
from seft_ref.runs.loops import Matrix
from seft_ref.train.loop import StepRecord


class LogWriter:
    """Appends lines to a log; without a path it does nothing.

    A file that is not a log, or is the log of another run, is refused and stays as it is. A run that was not resumed
    may go on in the log of the same run only if that has not ended: it was killed before it saved a state.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any], *, resumed: bool = False) -> None:
        self._path, self._settings = path, settings
        self._before: Log | None = None
        self._resumed = resumed
        if path is None or not path.exists() or not (data := path.read_bytes()):
            return
        self._before = parse_log(path, data)
        # TRN-010
        if not resumed and self._before.stored_at_end is not None:
            raise console.Refused(
                f"TRN-010: {path} is the log of an earlier run that has ended; name another file, or remove it"
            )
        self._refuse_another(settings, self._before.matrices, {})

    def _refuse_another(self, settings: Mapping[str, Any], matrices: Any, origin: Mapping[str, str]) -> None:
        """Raise Refused if the existing log is of another run (TRN-010)."""
        # TRN-010
        if self._before is not None and not same_run(self._before, _as_read(settings), matrices, origin):
            raise console.Refused(
                f"TRN-010: {self._path} is the log of a run with other settings, model or text; name another file, or "
                "remove it"
            )

    def run(self, targets: Mapping[str, Matrix], model: str, text: str) -> None:
        """Write the first line: settings and matrices of the run; model and text are digests."""
        matrices = [
            {"name": name, "shape": list(t.base.shape), "stored": t.budget, "slots": t.delta_budget}
            for name, t in targets.items()
        ]
        budget = sum(t.budget for t in targets.values())
        origin = {"model": model, "text": text}
        line = {"type": "run", "log": 1, "settings": self._settings, **origin, "matrices": matrices, "budget": budget}
        if self._path is not None:
            self._refuse_another(self._settings, parse_log(self._path, _line(line)).matrices, origin)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._before is not None:
                _end_cut_line(self._path)
                if not self._resumed and self._before.steps:
                    n = self._before.steps[-1].step
                    console.err.print(f"{self._path} has {n} steps of a run that saved no state; they are repeated")
        self._write(line)

    def step(self, record: StepRecord, seconds: float, fraction: float | None) -> None:
        """Write a step, and the event that follows it, if there is one."""
        numbers = {name: getattr(record, name) for name in ("step", "loss", "lr", "gradient_norm")}
        self._write({"type": "step", **numbers, "seconds": seconds})
        if record.event is None or record.matrices is None:
            return
        matrices = [{"name": name, **part.as_json()} for name, part in record.matrices.items()]
        self._write({"type": "event", "step": record.step, "fraction": fraction, **record.event, "matrices": matrices})

    def validation(self, step: int, loss: float, best: int) -> None:
        """Write a measurement on validation data, and the step of the best so far."""
        self._write({"type": "validation", "step": step, "loss": loss, "best": best})

    def warning(self, step: int, name: str, message: str) -> None:
        """Write a warning."""
        self._write({"type": "warning", "step": step, "name": name, "message": message})

    def end(self, step: int, stored: int, budget: int) -> None:
        """Write the end of a run."""
        self._write({"type": "end", "step": step, "stored": stored, "budget": budget})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        data = _line(line)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if (n_written := os.write(descriptor, data)) < len(data):
                # a full disk takes a part of a line, to which later lines would be added
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - n_written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        finally:
            os.close(descriptor)


def _line(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, allow_nan=False) + "\n").encode()


def _as_read(settings: Mapping[str, Any]) -> Any:
    """Return settings as JSON reads them back, because tuples become lists."""
    return json.loads(json.dumps(settings))


def _end_cut_line(path: Path) -> None:
    """Remove an unfinished last line that a stopped run left; if only its line feed is missing, add that."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == len(data):
        return
    try:
        json.loads(data[whole:])
    except ValueError:
        with path.open("r+b") as file:
            file.truncate(whole)
    else:
        with path.open("ab") as file:
            file.write(b"\n")
