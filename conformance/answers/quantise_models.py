"""Quantised models in folders: made by rounding, kept from codes of others, expanded, and written for others (QNT)."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conformance.answers.answer import Inputs, answers, ids, reals, refuse
from conformance.answers.files_content import content, tree_of
from conformance.answers.files_convert import checked_companions
from conformance.oracle import foreign_codes, quantise_models, second_folder
from conformance.oracle.files import Tensor, digest, text
from conformance.oracle.model import targets
from conformance.oracle.quantise_models import Model
from conformance.oracle.second_reader import Content

__all__: list[str] = []


def _own(a: Inputs) -> tuple[dict[str, Tensor], Content]:
    """Return the tensors of a folder of chapter 12, and the rest of its content."""
    with TemporaryDirectory() as folder:
        for name, raw in tree_of(a["files"]).items():
            (Path(folder) / name).write_bytes(raw)
        read = second_folder.read_folder(Path(folder))
    tensors = {}
    for name, t in read.tensors.items():
        at = None if t.columns is None else tuple(divmod(p, t.shape[-1]) for p in second_folder.positions_of(t))
        tensors[name] = Tensor(t.dtype, tuple(t.shape), t.bits, at)
    return tensors, read


def _model(a: Inputs) -> Model:
    """Return the quantised model of a folder, its own or one of FMT-172."""
    if any(name.startswith("model.sparse") for name in a["files"]):
        tensors, read = _own(a)
        return quantise_models.read(tensors, read.scales, read.attributes["quantised"]["grid"])
    folder = foreign_codes.read(tree_of(a["files"]))
    return quantise_models.on_grid(folder.matrices, folder.others)


def _described(model: Model, rounding: str, **attributes: Any) -> dict[str, Any]:
    """Return tensors, attributes and scales of a quantised model (QNT-009)."""
    parts, tensors = model.parts(), dict(model.others)
    for own, _ in parts.values():
        tensors |= own
    return {
        "tensors": content(tensors),
        "attributes": text(attributes | {"quantised": {"grid": model.grid, "rounding": rounding}}),
        "scales": text({name: roles for name, (_, roles) in parts.items()}),
    }


@answers("quantise.model")
def _rounded(a: Inputs) -> dict[str, Any]:
    tensors, read = _own(a)
    refuse(QNT_009="quantised" in read.attributes)
    names = targets(json.loads(a["files"]["config.json"].tobytes()))
    return _described(quantise_models.nearest(tensors, names, a["grid"]), "nearest", **read.attributes)


@answers("convert.keep_codes")
def _kept(a: Inputs) -> dict[str, Any]:
    tree = tree_of(a["files"])
    folder = foreign_codes.read(tree)
    made = _described(quantise_models.on_grid(folder.matrices, folder.others), "unknown")
    companions, _ = checked_companions({name: len(raw) for name, raw in tree.items()}, folder.read)
    stated = {"companions": {name: digest(tree[name]) for name in companions}, "config": text(folder.config)}
    return made | stated


@answers("convert.expand_codes")
def _expanded(a: Inputs) -> dict[str, Any]:
    return {"tensors": content(_model(a).expanded()), "attributes": text({}), "scales": text({})}


@answers("convert.pack_codes")
def _packed(a: Inputs) -> dict[str, Any]:
    model = _model(a)
    refuse(FMT_178=bool(model.beside), FMT_154=bool(model.beside))
    bits, size, asymmetric = model.options()
    scheme: dict[str, Any] = {"num_bits": bits, "group_size": size, "symmetric": not asymmetric, "type": "int"}
    scheme |= {"strategy": "group" if size else "channel", "quant_method": "compressed-tensors"}
    scheme |= {"format": "pack-quantized", "targets": ["Linear"]}
    return {"tensors": content(model.packed()), "scheme": text(scheme), "zeros": model.zeros()}


@answers("convert.gptq_codes")
def _for_gptq(a: Inputs) -> dict[str, Any]:
    model = _model(a)
    bits, size, asymmetric = model.options()
    refuse(FMT_180=bool(model.beside), FMT_154=bool(model.beside))
    refuse(FMT_180=any(side * bits % 32 for m in model.matrices.values() for side in m.shape))
    scheme = {"quant_method": "gptq", "bits": bits, "group_size": size or -1, "sym": not asymmetric}
    scheme |= {"desc_act": False, "checkpoint_format": "gptq_v2" if asymmetric else "gptq"}
    scheme |= {"lm_head": "lm_head.weight" in model.matrices}
    outputs = {"tensors": content(model.for_gptq()), "scheme": text(scheme), "zeros": model.zeros()}
    return outputs | {"rounded": model.beyond_f16()}


@answers("convert.gguf_blocks")
def _blocks(a: Inputs) -> dict[str, Any]:
    made = quantise_models.gguf_blocks(a["type"], a["raw"].tobytes())
    return {name: reals(made[name]) if name == "scales" else ids(made[name]) for name in made}
