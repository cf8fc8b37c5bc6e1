"""The operations on single checkpoint files, through `formats`: read, write, compress, expand, apply deltas."""

import json
from pathlib import Path
from typing import Any

import numpy as np

import formats
from conformance.engine.values import Values, work_folder
from formats import delta
from formats.container import NONE, raw_bytes, values_of
from formats.digest import of_state
from formats.encoding import dtype_of


def _name(a: Values) -> Values:
    with work_folder() as folder:
        formats.write_file(Path(folder) / a["name"], formats.Checkpoint("model", {}, {}))
    return {"ok": 1}


def _expand(a: Values) -> Values:
    limit = {} if a.get("limit") is None else {"limit": a["limit"]}
    with work_folder() as folder:
        path = Path(folder) / "case.st"
        path.write_bytes(a["raw"].tobytes())
        with formats.open(path) as reader:
            dense = formats.to_dense(reader.load_verified(a["name"]), **limit)
    return {"bits": np.frombuffer(dense.tobytes(), dtype=np.uint8)}


def read(a: Values, *, verified: bool = True) -> Values:
    """Return the content of a file; mutants pass verified=False to skip the check of its tensors."""
    with work_folder() as folder:
        path = Path(folder) / "case.safetensors"
        path.write_bytes(a["raw"].tobytes())
        # every tensor is read and verified first, because the operation must refuse a file with one broken tensor
        with formats.open(path) as reader:
            load = reader.load_verified if verified else reader.__getitem__
            tensors = {name: described(load(name)) for name in reader.names()}
            if verified:
                reader.verify()
            return {
                "kind": reader.kind,
                "tensors": tensors,
                "attributes": encoded(reader.attributes),
                "tied": reader.tied,
                "scales": encoded(reader.scales),
                "delta": encoded(_delta_json(reader.delta)),
                "state": reader.state_sha256,
            }


def _apply(a: Values) -> Values:
    with work_folder() as folder:
        readers = {}
        for name, raw in {"base": a["base"], **a["deltas"]}.items():
            path = Path(folder) / f"{name}.st"
            path.write_bytes(raw.tobytes())
            readers[name] = formats.open(path)
        steps = [delta.verified(readers[name]) for name in sorted(a["deltas"])]
        result = delta.apply(delta.verified(readers["base"]), steps)
        tensors = {name: result.tensors[name] for name in result.tensors}
        return {
            "tensors": {name: described(t) for name, t in tensors.items()},
            "tied": dict(result.tied),
            "scales": encoded({name: dict(roles) for name, roles in result.scales.items()}),
            "state": of_state(delta.contents(result), result.tied, result.scales),
        }


def encoded(value: Any) -> str:
    """Return a value as canonical JSON text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _delta_json(described: formats.DeltaOf | None) -> Any:
    if described is None:
        return None
    tensors = {name: {"base": base, "target": target} for name, (base, target) in described.tensors.items()}
    return {
        "base_sha256": described.base_sha256,
        "scales": described.scales,
        "target_sha256": described.target_sha256,
        "tensors": tensors,
        "tied": described.tied,
    }


def delta_of(text: str) -> formats.DeltaOf | None:
    """Return the description of a delta that a JSON text has; None for `null`."""
    value = json.loads(text)
    if value is None:
        return None
    tensors = {name: (ends["base"], ends["target"]) for name, ends in value["tensors"].items()}
    return formats.DeltaOf(value["base_sha256"], value["target_sha256"], tensors, value["tied"], value["scales"])


def described(t: formats.Tensor) -> Values:
    """Return the dict that operations output for a tensor; pointers and columns are None if the support is full."""
    full = t.nnz == int(np.prod(t.shape, dtype=object))
    supported = None if full or isinstance(t, formats.Dense) else t
    return {
        "dtype": dtype_of(t),
        "shape": np.array(t.shape, dtype=np.int64),
        "row_pointers": None if supported is None else supported.indptr,
        "columns": None if supported is None else supported.indices,
        "bits": np.frombuffer(b"" if isinstance(t, formats.Mask) else bytes(raw_bytes(t.values)), dtype=np.uint8),
    }


def tensor_of(t: Values) -> formats.Tensor:
    """Return the tensor that an input of operations describes."""
    shape = tuple(int(n) for n in t["shape"])
    if t["row_pointers"] is None:
        if t["dtype"] == NONE:
            return formats.from_support(np.ones(shape, dtype=np.bool_))
        return formats.Dense(values_of(t["bits"], t["dtype"], shape))
    mask = formats.Mask(shape, t["row_pointers"], t["columns"].astype(np.int32))
    return mask if t["dtype"] == NONE else formats.with_values(mask, values_of(t["bits"], t["dtype"], (mask.nnz,)))


def _write(a: Values, compress: str | None = None) -> Values:
    tensors = {name: tensor_of(t) for name, t in a["tensors"].items()}
    if a["encoding"] not in ("auto", "dense"):
        # `w` gets a support even if it is full, because a tensor without one is always stored dense
        tensors = {name: _supported(t) if name == "w" else t for name, t in tensors.items()}
    checkpoint = formats.Checkpoint(
        a["kind"], tensors, json.loads(a["attributes"]), a["tied"], {}, json.loads(a["scales"]), delta_of(a["delta"])
    )
    with work_folder() as folder:
        path = Path(folder) / "case.safetensors"
        formats.write_file(path, checkpoint, encoding=a["encoding"], compress=compress)
        return {"raw": np.frombuffer(path.read_bytes(), dtype=np.uint8)}


def _supported(t: formats.Tensor) -> formats.Tensor:
    if not isinstance(t, formats.Dense):
        return t
    return formats.with_values(formats.from_support(np.ones(t.shape, dtype=np.bool_)), t.values.reshape(-1))


def _compress(a: Values) -> Values:
    return _write(a, "zstd")


OPERATIONS: dict[str, Any] = {
    "file.name": _name,
    "file.expand": _expand,
    "file.read": read,
    "file.write": _write,
    "file.compress": _compress,
    "delta.apply": _apply,
}
