"""The operations `convert.*`: conversion of foreign folders by `formats.dialects`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import formats
from conformance.engine.files import described, encoded, tensor_of
from conformance.engine.values import Values, work_folder
from formats.dialects import gguf_codes, hf
from formats.dialects.quantised import quantisations
from formats.dialects.sources import ADAPTERS
from formats.digest import of_bytes
from formats.index import is_sparse


def laid_out(folder: Path, a: Values) -> Path:
    """Make a folder with the entries `files` and `large` of a case and return it; a final slash marks a folder."""
    folder.mkdir()
    for name, raw in a["files"].items():
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(raw.tobytes())
    for name, size in (a.get("large") or {}).items():
        with (folder / name).open("wb") as file:
            file.truncate(size)
    return folder


def _from_hf(a: Values) -> Values:
    with work_folder() as place:
        source, target = laid_out(Path(place) / "source", a), Path(place) / "target"
        with hf.open_hf(source) as folder:
            left_out = sorted(folder.left_out, key=str.encode)
            quantised = bool(quantisations(folder.files.get(hf.CONFIG, b"")))
        hf.to_sparse(source, target, encoding=a["encoding"], dtype=a.get("cast"), zeros=a["zeros"])
        with formats.open(target) as reader:
            return {
                "kind": reader.kind,
                "tensors": {name: described(reader.load_verified(name)) for name in reader.names()},
                "attributes": encoded(reader.attributes),
                "tied": reader.tied,
                "scales": encoded(reader.scales),
                "companions": _digests(reader.files),
                "left_out": left_out,
                "quantised": int(quantised),
            }


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: of_bytes(files[name]) for name in files}


def _to_hf(a: Values) -> Values:
    with work_folder() as place:
        source, target = laid_out(Path(place) / "source", a), Path(place) / "target"
        hf.to_hf(source, target, dtype=a.get("cast"), shard_bytes=a["part_bytes"])
        return {"files": {file.name: np.frombuffer(file.read_bytes(), dtype=np.uint8) for file in target.iterdir()}}


def _codes(a: Values) -> Values:
    with work_folder() as place:
        source, target = laid_out(Path(place) / "source", a), Path(place) / "target"
        formats.convert(source, target, "sparse", encoding=a["encoding"], expand_quantised=bool(a["expand_quantised"]))
        with formats.open(target) as reader:
            config = json.loads(reader.files[hf.CONFIG]) if hf.CONFIG in reader.files else None
            return {
                "tensors": {name: described(reader.load_verified(name)) for name in reader.names()},
                "attributes": encoded(reader.attributes),
                "companions": _digests({name: reader.files[name] for name in reader.files if name != hf.CONFIG}),
                "config": encoded(config),
            }


def _kept_codes(a: Values) -> Values:
    with work_folder() as place:
        source, target = laid_out(Path(place) / "source", a), Path(place) / "target"
        formats.convert(source, target, "sparse", keep_codes=True)
        with formats.open(target) as reader:
            config = json.loads(reader.files[hf.CONFIG]) if hf.CONFIG in reader.files else None
            return {
                "tensors": {name: described(reader.load_verified(name)) for name in reader.names()},
                "attributes": encoded(reader.attributes),
                "scales": encoded(reader.scales),
                "companions": _digests({name: reader.files[name] for name in reader.files if name != hf.CONFIG}),
                "config": encoded(config),
            }


def _quantised(place: Path, a: Values) -> Path:
    """Return the folder of a quantised model: that of a case, or one with the codes that a foreign folder has."""
    source, kept = laid_out(place / "source", a), place / "kept"
    if is_sparse(source):
        return source
    formats.convert(source, kept, "sparse", keep_codes=True)
    return kept


def _expanded_codes(a: Values) -> Values:
    with work_folder() as place:
        kept, target = _quantised(place, a), Path(place) / "target"
        formats.convert(kept, target, "sparse", expand_quantised=True)
        with formats.open(target) as reader:
            return {
                "tensors": {name: described(reader.load_verified(name)) for name in reader.names()},
                "attributes": encoded(reader.attributes),
                "scales": encoded(reader.scales),
            }


def _packed_codes(a: Values) -> Values:
    with work_folder() as place:
        kept, target = _quantised(place, a), Path(place) / "target"
        remarks = formats.convert(kept, target, "compressed-tensors")
        with hf.open_hf(target) as folder:
            config = json.loads(folder.files[hf.CONFIG])["quantization_config"]
            (scheme,) = config["config_groups"].values()
            whole = {name: config[name] for name in ("quant_method", "format")} | {"targets": scheme["targets"]}
            names = ("num_bits", "group_size", "symmetric", "type", "strategy")
            zeros = [int(n) for remark in remarks for n in re.findall(r"(\d+) stored weights of 0", remark)]
            return {
                "tensors": {name: described(folder[name]) for name in folder},
                "scheme": encoded(whole | {name: scheme["weights"][name] for name in names}),
                "zeros": sum(zeros),
            }


def _gptq_codes(a: Values) -> Values:
    with work_folder() as place:
        kept, target = _quantised(place, a), Path(place) / "target"
        remarks = " ".join(formats.convert(kept, target, "gptq"))
        with hf.open_hf(target) as folder:
            return {
                "tensors": {name: described(folder[name]) for name in folder},
                "scheme": encoded(json.loads(folder.files[hf.CONFIG])["quantization_config"]),
                "zeros": sum(int(n) for n in re.findall(r"(\d+) stored weights of 0", remarks)),
                "rounded": sum(int(n) for n in re.findall(r"(\d+) of \d+ scales are not exact", remarks)),
            }


def _gguf_blocks(a: Values) -> Values:
    matrix = gguf_codes.READERS[a["type"]](np.asarray(a["raw"]).reshape(a["out"], a["in"] // 32, -1))
    positions = np.flatnonzero(matrix.mask)
    zeros = np.zeros(matrix.scales.shape, np.int64) if matrix.zeros is None else matrix.zeros
    return {
        "positions": positions,
        "codes": matrix.codes.reshape(-1)[positions].astype(np.int64),
        "scales": matrix.scales.reshape(-1).astype(np.float64),
        "zeros": zeros.reshape(-1).astype(np.int64),
    }


def _adapter(a: Values) -> Values:
    base = {name: tensor_of(t) for name, t in a["tensors"].items()}
    with work_folder() as place:
        changes = ADAPTERS[a["kind"]](laid_out(Path(place) / "source", a), base)
        return {
            "how": changes.op,
            "tensors": {name: described(changes.tensors[name]) for name in changes.tensors},
            "left_out": changes.attributes.get("left_out", {}),
        }


OPERATIONS: dict[str, Any] = {
    "convert.from_hf": _from_hf,
    "convert.to_hf": _to_hf,
    "convert.adapter": _adapter,
    "convert.codes": _codes,
    "convert.keep_codes": _kept_codes,
    "convert.expand_codes": _expanded_codes,
    "convert.pack_codes": _packed_codes,
    "convert.gptq_codes": _gptq_codes,
    "convert.gguf_blocks": _gguf_blocks,
}
