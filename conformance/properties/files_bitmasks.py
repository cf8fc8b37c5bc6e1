"""Properties of folders of compressed-tensors with packed sparse tensors (FMT-150, FMT-158, FMT-179)."""

import json
from math import prod
from typing import Any

from conformance.answers.files_content import content, raw_array
from conformance.oracle import files_bitmasks
from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_bitmasks import BITMASK, CONFIG, TWO_OF_FOUR
from conformance.oracle.files_convert import WHOLE, packed, stock
from conformance.properties.draws import Draw
from conformance.properties.foreign import files_of
from conformance.properties.trial import Trial, property_of

__all__: list[str] = []

_DTYPES = ("F32", "F16", "BF16", "I8", "F8_E4M3", "F64")
_SHAPES = ((2, 4), (3, 8), (1, 12), (2, 3), (4, 13), (2, 2, 5), (3, 17), (4, 6), (0, 4))
_FAULTS = ("a bit more", "a part missing", "a value less", "another shape", "another format", "a name twice")
_OTHERS: tuple[dict[str, Any], ...] = (
    {},
    {"kv_cache_scheme": {"num_bits": 8}},
    {"config_groups": {"group_0": {"format": "int-quantized"}}},
)


def _values(d: Draw, dtype: str, count: int) -> bytes:
    return packed(dtype, d.integers(count, 0, min(2 ** BITS[dtype] - 1, 2**40)))


def _sparse(d: Draw, form: str) -> Tensor:
    """Return a sparse tensor, for two of four with exactly two entries of each group of four."""
    dtype = d.choice(_DTYPES)
    shape = d.choice(_SHAPES[:3] if form == TWO_OF_FOUR else _SHAPES)
    size = prod(shape)
    if form == TWO_OF_FOUR:
        at = sorted(first + i for first in range(0, size, 4) for i in d.order(4)[:2])
    else:
        at = d.subset(size)
    return Tensor(dtype, shape, _values(d, dtype, len(at)), tuple(divmod(i, shape[-1]) for i in at))


def _dense(d: Draw) -> Tensor:
    dtype = d.choice(_DTYPES)
    return Tensor(dtype, (3,), _values(d, dtype, 3))


def _described(d: Draw, form: str) -> dict[str, Any]:
    """Return a configuration that states a sparsity format in one of the places where programs write it."""
    sparsity = {"format": form, "global_sparsity": 1, "ignore": ["lm_head"]}
    beside = d.choice(_OTHERS)
    method = d.choice(({"quant_method": "compressed-tensors"}, {"quant_method": "sparseml"}, {}))
    inner = method | beside | {"sparsity_config": sparsity}
    where = d.choice((*("quantization_config", "compression_config"), "sparsity_config", "text_config"))
    outer = {"sparsity_config": sparsity, "text_config": {"quantization_config": inner, "vocab_size": 7}}
    return {"model_type": "llama", "torch_dtype": None, where: outer.get(where, inner)}


@property_of(
    "convert.bitmasks",
    "FMT-150 FMT-158",
    "bitmasks",
    "convert.bitmasks",
    sees=("two of four", "own names", "nothing packed", "a fault"),
)
def _bitmasks(d: Draw, t: Trial) -> None:
    """Packed tensors become sparse with the support of the bitmask and every bit, or a fault is refused."""
    form = d.choice((BITMASK, TWO_OF_FOUR, BITMASK, TWO_OF_FOUR, "dense", "dense-sparsity"))
    t.saw("two of four", form == TWO_OF_FOUR)
    own = d.flag()
    tensors = {"norm.weight": _dense(d)}
    names = d.some(("q", "model.layers.0.up", "a.b"), d.integer(1, 2))
    if form in (BITMASK, TWO_OF_FOUR):
        for name in names:
            parts = files_bitmasks.parts(_sparse(d, form), form)
            tensors |= {f"{name}{'.weight' * own}.{role}": part for role, part in parts.items()}
        t.saw("own names", own)
    else:
        t.saw("nothing packed")
    config = _described(d, form)
    if d.flag(3) and form in (BITMASK, TWO_OF_FOUR):
        _spoil(d, t, tensors, config, names[0] + ".weight" * own)
    tree = {CONFIG: json.dumps(config).encode(), WHOLE: stock(tensors), "tokenizer.json": bytes(d.integers(2, 0, 255))}
    t.case("convert.bitmasks", files_of(tree))


def _spoil(d: Draw, t: Trial, tensors: dict[str, Tensor], config: dict[str, Any], prefix: str) -> None:
    """Put one fault into a folder."""
    fault = d.choice(_FAULTS)
    t.saw("a fault")
    mask, values = tensors[f"{prefix}.bitmask"], tensors[f"{prefix}.compressed"]
    if fault == "a bit more":
        tensors[f"{prefix}.bitmask"] = Tensor("U8", mask.shape, mask.bits[:-1] + b"\xff")
    elif fault == "a part missing":
        del tensors[f"{prefix}.{d.choice(('bitmask', 'shape', 'compressed'))}"]
    elif fault == "a value less":
        size = max(len(values.bits) * 8 // BITS[values.dtype] - 1, 0)
        tensors[f"{prefix}.compressed"] = Tensor(values.dtype, (size,), values.bits[: size * BITS[values.dtype] // 8])
    elif fault == "another shape":
        stated = tensors[f"{prefix}.shape"]
        last = int.from_bytes(stated.bits[-8:], "little", signed=True) + d.choice((8, -9))
        bits = stated.bits[:-8] + last.to_bytes(8, "little", signed=True)
        tensors[f"{prefix}.shape"] = Tensor("I64", stated.shape, bits)
    elif fault == "another format":
        config["compression_config"] = {"sparsity_config": {"format": d.choice(("dense", "marlin-24"))}}
    else:
        tensors[f"{prefix.removesuffix('.weight')}.weight"] = values


_ODD = ("a part's name", "no weight", "a quantisation", "no configuration", "no columns")


@property_of(
    "convert.pack_bitmasks",
    "FMT-179",
    "bitmasks",
    "convert.pack_bitmasks",
    sees=("two of four", "a group of fewer than two", "a bitmask", "a fault"),
)
def _pack(d: Draw, t: Trial) -> None:
    """Sparse tensors are packed under the names of their modules, two of four if all fit it."""
    form = d.choice((BITMASK, TWO_OF_FOUR))
    tensors = {"norm.weight": _dense(d)}
    for name in d.some(("q", "model.layers.0.up", "é"), d.integer(1, 2)):
        one = _sparse(d, form)
        words = [i for i in range(one.nnz) if form == BITMASK or not d.flag(5)]
        size = BITS[one.dtype] // 8
        bits = b"".join(one.bits[size * i : size * (i + 1)] for i in words)
        thin = Tensor(one.dtype, one.shape, bits, tuple((one.support or ())[i] for i in words))
        tensors[f"{name}.weight"] = thin
        t.saw("a group of fewer than two", form == TWO_OF_FOUR and thin.nnz < one.nnz)
    t.saw("two of four" if form == TWO_OF_FOUR else "a bitmask")
    files = {CONFIG: raw_array(b'{"model_type": "llama", "a": [1, {}]}'), "t.json": raw_array(b"7")}
    if d.flag(4):
        odd = d.choice(_ODD)
        t.saw("a fault")
        name = next(name for name in tensors if name != "norm.weight")
        if odd == "a part's name":
            tensors[f"{name.removesuffix('.weight')}.{d.choice(('shape', 'row_offsets'))}"] = _dense(d)
        elif odd == "no weight":
            tensors[d.choice((f"{name}.weight", "bias"))] = tensors.pop(name)
        elif odd == "a quantisation":
            inner = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
            files[CONFIG] = raw_array(json.dumps(d.choice((inner, {"text_config": inner}))).encode())
        elif odd == "no configuration":
            del files[CONFIG]
        else:
            tensors["empty.weight"] = Tensor("F32", (2, 0), b"", ())
    t.case("convert.pack_bitmasks", {"tensors": content(tensors), "files": files})
