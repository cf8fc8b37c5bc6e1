"""What stands around a run, by the engine: dtypes, final weights, names, stop tokens, records, warnings, shares."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import formats
from formats.container import DTYPES
from seft_ref.arrays.library import to_numpy
from seft_ref.arrays.ranks import rows_of
from seft_ref.files.model import compute_dtype, in_file_dtype, stop_tokens_of
from seft_ref.prune.record import pattern_of, read_record
from seft_ref.train.diagnose import warnings_of

Values = dict[str, Any]


def _dtype(a: Values) -> Values:
    return {"dtype": compute_dtype("a tensor", DTYPES[a["stored"]], a.get("asked")).name}


def _final(a: Values) -> Values:
    bits = in_file_dtype("a tensor", to_numpy(a["values"]), DTYPES[a["dtype"]])
    return {"bits": np.frombuffer(bits.tobytes(), dtype=np.uint8)}


def _name(a: Values) -> Values:
    with tempfile.TemporaryDirectory() as folder:
        formats.write_file(Path(folder) / a["name"], formats.Checkpoint("model", {}, {}))
    return {"ok": 1}


def _expand(a: Values) -> Values:
    limit = {} if a.get("limit") is None else {"limit": a["limit"]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.st"
        path.write_bytes(a["raw"].tobytes())
        with formats.open(path) as reader:
            dense = formats.to_dense(reader.load_verified(a["name"]), **limit)
    return {"bits": np.frombuffer(dense.tobytes(), dtype=np.uint8)}


def _stops(a: Values) -> Values:
    texts = {"config.json": a["config"], "generation_config.json": a.get("generation")}
    files = {name: text.encode() for name, text in texts.items() if text is not None}
    return {"stops": np.array(stop_tokens_of(files), dtype=np.int64)}


def _record(a: Values) -> Values:
    pattern = pattern_of(read_record(a["record"].encode()))
    return {"pattern": None if pattern is None else np.array(pattern, dtype=np.int64)}


def _warnings(a: Values) -> Values:
    events = [int(step) for step in a["events"]]
    support = dict(zip(events, (int(n) for n in a["support"]), strict=True))
    found = warnings_of([float(x) for x in a["losses"]], events, support, a["budget"], a.get("stored"))
    return {"steps": np.array([one.step for one in found], dtype=np.int64), "names": [one.name for one in found]}


class _Rank:
    """A rank of several, as far as its rows are asked for."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def _rows(a: Values) -> Values:
    parts = [rows_of(a["rows"], _Rank(r, a["ranks"])) for r in range(a["ranks"])]  # type: ignore[arg-type]
    return {"first": np.array([part.start for part in parts] + [parts[-1].stop], dtype=np.int64)}


OPERATIONS: dict[str, Any] = {
    "checkpoint.dtype": _dtype,
    "checkpoint.final": _final,
    "file.name": _name,
    "file.expand": _expand,
    "generate.stops": _stops,
    "prune.record": _record,
    "run.warnings": _warnings,
    "ranks.rows": _rows,
}
