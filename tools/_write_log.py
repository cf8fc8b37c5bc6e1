"""The log of a run (TRN-010), written: one JSON object a line, each line in one write."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seft_ref.train import StepRecord, Target


class LogWriter:
    """Appends lines to a log; without a path it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _end_cut_line(path)

    def run(self, settings: Mapping[str, Any], targets: Mapping[str, Target]) -> None:
        """Write what is about to run."""
        matrices = [
            {"name": name, "shape": list(t.base.topology.shape), "stored": t.budget, "slots": t.delta_budget}
            for name, t in targets.items()
        ]
        budget = sum(t.budget for t in targets.values())
        self._write({"type": "run", "log": 1, "settings": settings, "matrices": matrices, "budget": budget})

    def step(self, record: StepRecord, seconds: float, fraction: float | None) -> None:
        """Write a step, and the event behind it."""
        told = {name: getattr(record, name) for name in ("step", "loss", "lr", "gradient_norm")}
        self._write({"type": "step", **told, "seconds": seconds})
        if record.event is None or record.matrices is None:
            return
        matrices = [{"name": name, **one.as_json()} for name, one in record.matrices.items()]
        self._write({"type": "event", "step": record.step, "fraction": fraction, **record.event, "matrices": matrices})

    def warning(self, step: int, name: str, message: str) -> None:
        """Write a warning."""
        self._write({"type": "warning", "step": step, "name": name, "message": message})

    def end(self, step: int, stored: int, budget: int) -> None:
        """Write the end of a run."""
        self._write({"type": "end", "step": step, "stored": stored, "budget": budget})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        where = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(where, data)
        finally:
            os.close(where)


def _end_cut_line(path: Path) -> None:
    """Cut off a last line that a stopped run left without its end."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
