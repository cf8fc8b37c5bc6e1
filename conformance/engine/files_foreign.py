"""Files and folders of other libraries, packed files, and models in files, through `formats` and `seft_ref.files`."""

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import formats
from conformance.engine.files import described, encoded, tensor_of
from conformance.engine.files_convert import laid_out
from conformance.engine.values import Values, work_folder
from formats import compress
from formats.dialects import hf
from formats.dialects.compressed_tensors import open_compressed_tensors
from formats.dialects.seft_adapter import read_seft
from formats.digest import of_bytes
from seft_ref.files.model import load_model


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: of_bytes(files[name]) for name in files if name != hf.CONFIG}


def _bitmasks(a: Values) -> Values:
    with work_folder() as place:
        source, target = laid_out(Path(place) / "source", a), Path(place) / "target"
        # `formats.convert` would also make dense tensors sparse (FMT-122)
        formats.write(target, open_compressed_tensors(source))
        with formats.open(target) as reader:
            return {
                "tensors": {name: described(reader.load_verified(name)) for name in reader.names()},
                "companions": _digests(reader.files),
                "config": encoded(json.loads(reader.files[hf.CONFIG])),
            }


def _pack_bitmasks(a: Values) -> Values:
    companions = {name: raw.tobytes() for name, raw in a["files"].items()}
    tensors = {name: tensor_of(t) for name, t in a["tensors"].items()}
    with work_folder() as place:
        source, target = Path(place) / "source", Path(place) / "target"
        formats.write(source, formats.Checkpoint("model", tensors, files=companions))
        remarks = formats.convert(source, target, "compressed-tensors")
        with hf.open_hf(target) as folder:
            config = json.loads(folder.files[hf.CONFIG])
            return {
                "names": sorted(folder, key=str.encode),
                "tensors": {name: described(folder[name]) for name in folder if not name.endswith(".row_offsets")},
                "companions": _digests(folder.files),
                "format": config.pop("quantization_config")["sparsity_config"]["format"],
                "config": encoded(config),
                "zeros": sum(int(n) for n in re.findall(r"that (\d+) places", " ".join(remarks))),
            }


def _unpack(a: Values) -> Values:
    raw = a["raw"]
    with work_folder() as place:
        path = Path(place) / "case.sparse"
        path.write_bytes(raw.tobytes())
        with formats.open(path) as reader:
            for name in reader.names():
                reader.load_verified(name)
            reader.verify()
        packed = raw[: len(compress.MAGIC)].tobytes() == compress.MAGIC
        return {"raw": compress.PackedFile(raw, path.name).content() if packed else raw}


def _open(a: Values) -> Values:
    tensors = {name: tensor_of(t) for name, t in a["tensors"].items()}
    files = {hf.CONFIG: json.dumps(a["config"]).encode()}
    with work_folder() as place:
        folder = Path(place) / "model"
        formats.write(folder, formats.Checkpoint("model", tensors, files=files))
        bases = load_model(folder, a["kernels"]).bases
        return {"targets": [*bases], "stored": np.array([base.nnz for base in bases.values()], dtype=np.int64)}


def _seft_adapter(a: Values) -> Values:
    base = {name: tensor_of(t) for name, t in a["tensors"].items()}
    with work_folder() as place:
        changes = read_seft(laid_out(Path(place) / "source", a), base)
        return {
            "how": changes.op,
            "tensors": {name: described(changes.tensors[name]) for name in changes.tensors},
            "removed": {name: described(changes.removed[name]) for name in changes.removed},
        }


def _gguf(a: Values) -> Values:
    # the import is here, because the package gguf may be absent
    from formats.dialects.gguf_file import open_gguf

    with work_folder() as place:
        path = Path(place) / "case.gguf"
        path.write_bytes(a["raw"].tobytes())
        file = open_gguf(path, expand_quantised=bool(a["expand_quantised"]))
        tensors = {name: described(file.tensors[name]) for name in file.tensors}
        return {"tensors": tensors, "attributes": encoded(file.attributes)}


def _torch(a: Values) -> Values:
    # the import is here, because torch may be absent
    from formats.dialects.torch_file import read_torch

    with work_folder() as place:
        path = Path(place) / "case.pt"
        path.write_bytes(a["raw"].tobytes())
        file = read_torch(path)
        tensors = {name: described(file.tensors[name]) for name in file.tensors}
        return {"tensors": tensors, "tied": dict(file.tied)}


OPERATIONS: dict[str, Any] = {
    "convert.bitmasks": _bitmasks,
    "convert.pack_bitmasks": _pack_bitmasks,
    "convert.seft_adapter": _seft_adapter,
    "file.unpack": _unpack,
    "checkpoint.open": _open,
}
if find_spec("gguf"):
    OPERATIONS |= {"convert.gguf": _gguf}
if find_spec("torch"):
    OPERATIONS |= {"convert.torch": _torch}
