"""A corpus packed in one file: small inputs that together reach every clause that a single file can break."""

import base64
import gzip
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.fuzz.judge import Verdict
from conformance.fuzz.parts import take_apart

EACH = 4
"""Number of inputs kept for each clause of the first reader; they differ in the clauses of the other readers."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input, and the clause that the first reader names for it."""

    raw: bytes
    clause: str
    """empty if the reader accepts the input"""


def load(path: Path) -> list[Input]:
    """Return the inputs of a packed corpus, or the files of a folder, which have no clause yet."""
    if path.is_dir():
        return [Input(file.read_bytes(), "") for file in sorted(path.iterdir()) if file.is_file()]
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return [Input(base64.b64decode(line["raw"]), line["clause"]) for line in map(json.loads, lines)]


def save(path: Path, inputs: Iterable[Input]) -> None:
    """Write a packed corpus; the same inputs give the same bytes, because they are sorted and have no time stamp."""
    ordered = sorted(set(inputs), key=lambda i: (i.clause, len(i.raw), i.raw))
    lines = [json.dumps({"clause": i.clause, "raw": base64.b64encode(i.raw).decode()}) for i in ordered]
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), 9, mtime=0))


class Keeper:
    """Collects the smallest refused input for each verdict and the smallest accepted one for each feature."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, ...], bytes] = {}
        self._accepted: dict[Any, bytes] = {}

    def __call__(self, raw: bytes, verdict: Verdict) -> None:
        """Keep an input if it is the smallest of its verdict or of one of its features."""
        if verdict.accepted:
            for feature in features(raw):
                _smallest(self._accepted, feature, raw)
        else:
            _smallest(self._refused, verdict.clauses, raw)

    def inputs(self) -> list[Input]:
        """Return the EACH smallest refused inputs of each clause, and accepted ones that cover all features."""
        kept, count = [], Counter[str]()
        for clauses, raw in sorted(self._refused.items(), key=lambda item: (len(item[1]), item[1])):
            count[clauses[0]] += 1
            if count[clauses[0]] <= EACH:
                kept.append(Input(raw, clauses[0]))
        uncovered, able = set(self._accepted), {raw: features(raw) for raw in self._accepted.values()}
        while uncovered:
            best = max(able, key=lambda raw: (len(able[raw] & uncovered), -len(raw), raw))
            uncovered -= able[best]
            kept.append(Input(best, ""))
        return kept


def _smallest(smallest: dict[Any, bytes], key: Any, raw: bytes) -> None:
    old = smallest.get(key)
    if old is None or (len(raw), raw) < (len(old), old):
        smallest[key] = raw


def features(raw: bytes) -> set[Any]:
    """Return the features of an accepted file: how each tensor is stored, and what the manifest uses."""
    m = take_apart(raw).manifest
    shown: set[Any] = {("kind", m["kind"]), ("requires", *m["requires"]), ("tensors", min(len(m["tensors"]), 3))}
    shown |= {key for key in ("tied", "scales", "attributes", "optional", "delta") if m.get(key)}
    for entry in m["tensors"].values():
        axis = "pattern" in entry and entry["pattern"]["axis"] == len(entry["shape"]) - 1
        empty = 0 if not entry["nnz"] else 1
        shown |= {(entry["encoding"], axis, empty), ("dtype", entry["dtype"], entry["encoding"] == "dense")}
        shown.add(("rank", len(entry["shape"]), entry["encoding"]))
    return shown
