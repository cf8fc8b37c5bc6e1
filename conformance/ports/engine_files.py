"""Checkpoint files through the reader and writer of `formats`."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import formats
from formats.container import DTYPES, NAMES

Values = dict[str, Any]


def _read(a: Values) -> Values:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.safetensors"
        path.write_bytes(a["raw"].tobytes())
        # every tensor is read and verified before anything is handed out
        found = formats.read(path)
        tensors = {name: described(t) for name, t in found.tensors.items()}
    attributes = json.dumps(found.attributes, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {"kind": found.kind, "tensors": tensors, "attributes": attributes, "tied": dict(found.tied)}


def described(t: formats.Tensor) -> Values:
    """Return a tensor as the operations hand it out; one with full support has no pointers."""
    full = t.nnz == int(np.prod(t.shape, dtype=object))
    sparse = t if isinstance(t, formats.Sparse) and not full else None
    return {
        "dtype": NAMES[t.dtype],
        "shape": np.array(t.shape, dtype=np.int64),
        "row_pointers": None if sparse is None else sparse.indptr,
        "columns": None if sparse is None else sparse.indices,
        "bits": np.frombuffer(np.ascontiguousarray(t.values).tobytes(), dtype=np.uint8),
    }


def _tensor(t: Values) -> formats.Tensor:
    values = np.frombuffer(t["bits"].tobytes(), dtype=DTYPES[t["dtype"]])
    shape = tuple(int(n) for n in t["shape"])
    if t["row_pointers"] is None:
        return formats.Dense(values.reshape(shape))
    return formats.Sparse((shape[0], shape[1]), t["row_pointers"], t["columns"].astype(np.int32), values)


def _write(a: Values) -> Values:
    tensors = {name: _tensor(t) for name, t in a["tensors"].items()}
    checkpoint = formats.Checkpoint(a["kind"], tensors, json.loads(a["attributes"]), a["tied"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.safetensors"
        formats.write_file(path, checkpoint, encoding=a["encoding"])
        return {"raw": np.frombuffer(path.read_bytes(), dtype=np.uint8)}


OPERATIONS: dict[str, Any] = {"file.read": _read, "file.write": _write}
