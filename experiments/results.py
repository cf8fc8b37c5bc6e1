"""Results on disk: one JSON line a run, whose key is a digest of everything that decides the run.

A file that was cut, or that two processes write to, loses at most the line that was being written.
"""

import ast
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import seft_ref

Run = dict[str, Any]
NAMED = frozenset({"key", "engine", "model", "valid", "evaluation", "perplexity_before"})
"""The fields that a line must have to count as a run."""


def key_of(content: Mapping[str, Any]) -> str:
    """Return the digest of everything but the engine that decides a run: settings, model, texts, evaluation."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def engine_digest() -> str:
    """Return a digest of the engine's sources without comments and docstrings.

    They are read once, because the process goes on with the code that it loaded even if a file changes.
    """
    root = Path(seft_ref.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [s for s in body if not _is_remark(s)]  # type: ignore[attr-defined]
        digest.update(f"{path.relative_to(root).as_posix()}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()


def _is_remark(statement: object) -> bool:
    """Return whether a statement is a docstring or another bare string."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


class Results:
    """The results file of a work folder."""

    def __init__(self, work: Path, engine: str | None) -> None:
        """Read runs of one engine only, or of any engine with None."""
        self.path = work / "results.jsonl"
        self._engine = engine

    def lines(self) -> Iterator[Run]:
        """Yield every whole line that is a run."""
        if not self.path.exists():
            return
        for line in self.path.read_bytes().splitlines():
            try:
                run = json.loads(line)
            except (ValueError, RecursionError):
                continue  # the line was cut while it was written, so the run is made again
            if isinstance(run, dict) and run.keys() >= NAMED:
                yield run

    def found(self) -> dict[str, Run]:
        """Return the finished runs by key, the first one of each."""
        runs: dict[str, Run] = {}
        for run in self.lines():
            if self._engine in (None, run["engine"]):
                runs.setdefault(run["key"], run)
        return runs

    def append(self, run: Run) -> None:
        """Add a run in one write, on a line of its own even if the last line was cut."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            whole = size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
            line = ("" if whole else "\n") + json.dumps(run, sort_keys=True) + "\n"
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
