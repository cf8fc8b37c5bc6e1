"""The operations `folder.read` and `folder.write`, through the reader and writer of `formats`."""

import json
from pathlib import Path
from typing import Any

import numpy as np

import formats
from conformance.engine.files import delta_of, described, encoded, tensor_of
from conformance.engine.values import Values, work_folder


def _read(a: Values) -> Values:
    with work_folder() as folder:
        for name, raw in a["files"].items():
            (Path(folder) / name).write_bytes(raw.tobytes())
        with formats.open(folder) as reader:
            tensors = {name: described(reader.load_verified(name)) for name in reader.names()}
            reader.verify()
            return {
                "kind": reader.kind,
                "tensors": tensors,
                "attributes": encoded(reader.attributes),
                "tied": reader.tied,
                "scales": encoded(reader.scales),
                "delta": encoded(None),
                "state": reader.state_sha256,
                "files": {name: np.frombuffer(reader.files[name], dtype=np.uint8) for name in reader.files},
            }


def _write(a: Values) -> Values:
    tensors = {name: tensor_of(t) for name, t in a["tensors"].items()}
    large = a.get("large") or {}
    companions = {name: raw.tobytes() for name, raw in a["files"].items()}
    companions |= {name: bytes(size) for name, size in large.items()}
    checkpoint = formats.Checkpoint(
        a["kind"],
        tensors,
        json.loads(a["attributes"]),
        a["tied"],
        companions,
        json.loads(a["scales"]),
        delta_of(a["delta"]),
    )
    with work_folder() as folder:
        path = Path(folder) / "case"
        formats.write(path, checkpoint, encoding=a["encoding"], shard_bytes=a["part_bytes"])
        written = [file for file in path.iterdir() if file.name not in large]
        return {"files": {file.name: np.frombuffer(file.read_bytes(), dtype=np.uint8) for file in written}}


OPERATIONS: dict[str, Any] = {
    "folder.read": _read,
    "folder.write": _write,
}
