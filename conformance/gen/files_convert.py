"""Cases of conversion: Hugging Face folders that become sparse checkpoints (FMT-120 to FMT-129)."""

import json
import struct
from collections.abc import Mapping
from typing import Any

from conformance.gen.files import content, raw_array
from conformance.gen.files_convert_adapters import adapters
from conformance.gen.files_convert_back import back
from conformance.gen.files_convert_faults import refused
from conformance.gen.numbers import Area, Numbers
from conformance.oracle import files_convert
from conformance.oracle.files import BITS, Tensor, digest
from conformance.oracle.files_convert import INDEX, SIGNS, WHOLE, dense, stock
from conformance.oracle.train_around import FORMATS, rounded_bits

CLAUSES = "FMT-120 FMT-121 FMT-122"
_ONES = {"F4": 2, "F6_E2M3": 8, "F6_E3M2": 12, "F8_E5M2": 0x3C, "F8_E4M3": 0x38, "F8_E8M0": 0x7F}


_ONES |= {
    "F8_E4M3FNUZ": 0x40,
    "F8_E5M2FNUZ": 0x40,
    "F16": 0x3C00,
    "BF16": 0x3F80,
    "F32": 0x3F80_0000,
    "F64": 0x3FF << 52,
}
"""Dtype -> bit pattern of 1.0."""


def asked(
    tree: Mapping[str, bytes],
    encoding: str = "auto",
    zeros: str = "any",
    cast: str | None = None,
    large: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return the inputs of `convert.from_hf`."""
    inputs: dict[str, Any] = {"files": {name: raw_array(raw) for name, raw in tree.items()}}
    inputs |= {"encoding": encoding, "zeros": zeros}
    return inputs | ({} if cast is None else {"cast": cast}) | ({} if large is None else {"large": dict(large)})


def answered(
    tensors: Mapping[str, Tensor], inputs: Mapping[str, Any], read: tuple[str, ...], *, quantised: bool
) -> Any:
    """Return the outputs of `convert.from_hf` for a folder whose files `read` hold the tensors."""
    checkpoint = files_convert.converted(tensors, inputs["encoding"], inputs["zeros"], inputs.get("cast"))
    large = inputs.get("large", {})
    tree = {name: raw.size for name, raw in inputs["files"].items()} | large
    companions, left_out = files_convert.sorted_out(tree, read)
    answer = content(checkpoint.tensors, attributes=checkpoint.attributes)
    del answer["delta"]
    files = inputs["files"]
    sums = {n: files_convert.of_zeros(large[n]) if n in large else digest(files[n].tobytes()) for n in companions}
    return answer | {"companions": sums, "left_out": left_out, "quantised": int(quantised)}


class Folders:
    """Collects folders as cases."""

    def __init__(self) -> None:
        self.area = Area("convert", "values one by one by 12.11")

    def add(
        self,
        name: str,
        clauses: str,
        purpose: str,
        tensors: Mapping[str, Tensor],
        beside: Mapping[str, bytes] | None = None,
        *,
        shards: tuple[str, ...] = (WHOLE,),
        tree: Mapping[str, bytes] | None = None,
        quantised: bool = False,
        **more: Any,
    ) -> None:
        """Add a folder with one file of weights, or with the files in `tree`."""
        weights = {WHOLE: stock(tensors)} if tree is None else dict(tree)
        inputs = asked(weights | dict(beside or {}), **more)
        answer = answered(tensors, inputs, shards, quantised=quantised)
        self.area.add(f"from-{name}", "convert.from_hf", clauses, purpose, inputs, answer)


def whole() -> Area:
    """Return cases of folders that become checkpoints (FMT-120 to FMT-123, FMT-125 to FMT-129)."""
    cases = Folders()
    _zeros(cases)
    _choices(cases)
    _kinds(cases)
    _companions(cases)
    _shards(cases)
    _casts(cases)
    _quantised(cases)
    refused(cases.area, asked)
    return cases.area


def floats() -> dict[str, Tensor]:
    """Return a tensor of every float dtype with zeros of both signs, the smallest numbers, 1.0 and NaN."""
    out = {}
    for dtype, one in _ONES.items():
        width = BITS[dtype]
        sign, top = 1 << (width - 1), (1 << width) - 1
        # the special numbers are the smallest ones, NaNs or largest numbers of both signs, 1.0, −1.0 and the sign alone
        special = {3: sign, 4: 1, 9: sign | 1, 17: top, 18: top >> 1, 31: one, 40: sign, 47: sign | one}
        out[dtype] = dense(dtype, (3, 16), [special.get(i, 0) for i in range(48)])
    return out


def _zeros(cases: Folders) -> None:
    """Add every float dtype with either option for zeros, encoded by `auto` or as a bitmask."""
    for zeros, encoding in (("any", "auto"), ("positive", "bitmask")):
        clauses = f"{CLAUSES} FMT-125 FMT-127 FMT-129"
        purpose = "a −0.0 or a NaN taken for what it is not, or bits changed on the way"
        cases.add(f"zeros-{zeros}", clauses, purpose, floats(), zeros=zeros, encoding=encoding)
    none = {"w": dense("F32", (2, 40), [0] * 79 + [5])}
    cases.add("no-negative-zero", "FMT-127 FMT-122", "an attribute that counts nothing", none)
    flat = {"w": dense("F16", (6,), [1 << 15] * 6), "x": dense("F16", (1, 9), [1 << 15, *range(1, 9)])}
    cases.add("negative-zeros-kept", "FMT-127", "a −0.0 counted that a dense tensor keeps", flat)


def _row(n_zero: int, n_negative: int, dtype: str, columns: int) -> Tensor:
    """Return a row that begins with `n_zero` zeros and `n_negative` negative zeros; the rest is 1.0."""
    rest = [_ONES[dtype]] * (columns - n_zero - n_negative)
    return dense(dtype, (1, columns), [0] * n_zero + [SIGNS[dtype]] * n_negative + rest)


def _choices(cases: Folders) -> None:
    """Add rows around the number of zeros at which `auto` makes a tensor sparse."""
    rows = {
        "tie": _row(1, 0, "F8_E4M3", 8),
        "one-less": _row(2, 0, "F8_E4M3", 8),
        "one-of-either": _row(1, 1, "F8_E4M3", 8),
        "none": _row(0, 0, "F16", 40),
        "wide": _row(1, 0, "F64", 8),
        "column": dense("F8_E5M2", (20, 1), [0] * 19 + [7]),
        "nothing": dense("F32", (5, 5), [0] * 25),
    }
    for zeros in ("any", "positive"):
        purpose = "a tensor that is made sparse although it gains nothing, or by another support"
        cases.add(f"auto-{zeros}", "FMT-122 FMT-127", purpose, rows, zeros=zeros)
    cast = {"F16": _row(1, 0, "F16", 9), "F32": _row(1, 0, "F32", 9), "F64": _row(1, 0, "F64", 9)}
    for new in ("F16", "F32"):
        purpose = "sizes compared before the cast"
        cases.add(f"auto-cast-{new}", "FMT-122 FMT-126 FMT-129", purpose, cast, cast=new)


def _kinds(cases: Folders) -> None:
    """Add tensors that stay dense, and tensors of many dimensions."""
    n = Numbers(48, 1)

    def some(width: int, size: int) -> list[int]:
        return [x if x < 1 << (width - 1) else 0 for x in n.integers(size, 0, (1 << width) - 1).tolist()]

    tensors = {
        "conv": dense("F16", (2, 3, 2, 2), some(16, 24)),
        "norm": dense("BF16", (9,), [0] * 9),
        "scalar": dense("F64", (), [0]),
        "ids": dense("I64", (2, 5), [0] * 9 + [9]),
        "codes": dense("I8", (2, 20), [0] * 40),
        "flags": dense("BOOL", (2, 20), [0] * 38 + [1, 0]),
        "complex": dense("C64", (2, 5), [0] * 10),
        "scale": dense("F8_E8M0", (2, 20), [0] * 40),
        "no-columns": dense("F32", (3, 0), []),
        "no-rows": dense("F32", (0, 3), []),
        "tie": _row(1, 0, "F16", 9),
        "full": dense("F32", (2, 2), [1, 2, 3, 4]),
        "é \U0001f600": dense("F4", (1, 40), [0] * 30 + [3, 8, 15, 1] + [0] * 6),
    }
    for encoding in ("auto", "csr"):
        purpose = "a tensor made sparse that is to stay dense, or the other way round"
        cases.add(f"kinds-{encoding}", f"{CLAUSES} FMT-129 FMT-083", purpose, tensors, encoding=encoding)
    pairs = {"w": dense("F16", (2, 8), [0, 7] * 8), "b": dense("F16", (3,), [0] * 3)}
    cases.add("pattern", "FMT-122 FMT-084", "an option that is not handed on", pairs, encoding="nm:1:2")


def _companions(cases: Folders) -> None:
    """Add folders with other files: companions that are kept, and files that are left out."""
    tensors = {"w": dense("F16", (1, 9), [0] * 8 + [1])}
    beside = {
        "config.json": b'{"a": 1e4}',
        "empty": b"",
        "tokenizer.model": bytes(range(256)),
        "_x-1.TXT": b"\n",
        "a.safetensors.txt": b"1",
        ".gitattributes": b"2",
        ".hidden.json": b"",
        ".cache/": b"",
        "original/": b"",
        "model.json/": b"",
        "1_Pooling/": b"",
        "adapter_model.safetensors": b"not looked at",
        "Pytorch_Model.BIN": b"",
        INDEX: b"{}",
        "pytorch_model.bin.index.json": b"",
        "model-00001-of-00002.safetensors": b"",
        "x.pt": b"",
        "x.pth": b"",
        "x.Gguf": b"",
        "x.h5": b"",
        "x.msgpack": b"",
        "x.onnx": b"",
    }
    cases.add("companions", "FMT-123 FMT-013 FMT-120", "an entry that is lost without a word", tensors, beside)
    large = {"most": files_convert.LARGEST, "more.json": files_convert.LARGEST + 1}
    purpose = "a companion that may not be so large, or a limit one off"
    cases.add("large", "FMT-123", purpose, tensors, {"config.json": b"{}"}, large=large)


def _shards(cases: Folders) -> None:
    """Add folders of several files with an index, and headers in unusual spellings."""
    a, b = dense("F16", (1, 9), [0] * 8 + [1]), dense("I32", (1,), [3])
    parts = {"model-00001-of-00002.safetensors": {"b": b}, "_2.safetensors": {"a": a, "c": b}}
    weight_map = {name: part for part, own in parts.items() for name in own}
    index = json.dumps({"metadata": {"total_size": 123.5}, "more": [], "weight_map": weight_map}, indent=2).encode()
    tree = {part: stock(own, {"format": "pt"}) for part, own in parts.items()} | {INDEX: index}
    tensors = {"a": a, "b": b, "c": b}
    beside = {"other.safetensors": stock({"d": b}), "config.json": b"{}"}
    read = (*parts, INDEX)
    purpose = "a shard that is not read, or one that the index does not name"
    cases.add("shards", "FMT-120 FMT-123", purpose, tensors, beside, tree=tree, shards=read)
    purpose = "shards read beside a whole file"
    both = tree | {WHOLE: stock({"a": a})}
    cases.add("whole-before-shards", "FMT-120 FMT-123", purpose, {"a": a}, tree=both)
    bare = {"y": dense("U8", (1,), [255]), "x": dense("F32", (1,), [0x3FC0_0000])}
    places = '"x" : {"shape":[1],"dtype":"F32","data_offsets":[1,5]},'
    places += '"y":{"data_offsets":[0,1],"dtype":"\\u00558","shape":[ 1 ]}'
    odd = f' \n{{"__metadata__":{{"é":"\\u00e9","format":"tf"}},{places}}}\t '
    raw = files_convert.framed(odd.encode(), b"\xff" + struct.pack("<f", 1.5))
    purpose = "spaces, escapes, order or alignment that are taken for faults"
    cases.add("spelling", "FMT-121", purpose, bare, tree={WHOLE: raw})
    _empty_between(cases)
    nulls = {"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, "__metadata__": None}
    raw = files_convert.framed(json.dumps(nulls).encode(), b"abcd")
    cases.add("no-metadata", "FMT-121", purpose, {"w": Tensor("U8", (4,), b"abcd")}, tree={WHOLE: raw})
    cases.add(
        "nothing", "FMT-121 FMT-122", "a folder without tensors", {}, tree={WHOLE: files_convert.framed(b"{}", b"")}
    )


def _empty_between(cases: Folders) -> None:
    """Add empty tensors that the header names before or after a tensor with the same start."""
    places = {"b": (4, 3, 7), "after": (0, 7, 7), "behind": (0, 3, 3), "first": (0, 0, 0), "a": (3, 0, 3)}
    header = {n: {"dtype": "U8", "shape": [size], "data_offsets": at} for n, (size, *at) in places.items()}
    tensors = {n: Tensor("U8", (size,), b"abcdefg"[begin:end]) for n, (size, begin, end) in places.items()}
    raw = files_convert.framed(json.dumps(header).encode(), b"abcdefg")
    purpose = "a hole seen where two begin at one byte, one of them empty, in the order of the header"
    cases.add("empty-behind", "FMT-121", purpose, tensors, tree={WHOLE: raw})


def _casts(cases: Folders) -> None:
    """Add casts from each of the four dtypes: ties, numbers beside ties, the smallest and the largest numbers."""

    def of(dtype: str, values: list[float]) -> list[int]:
        return [rounded_bits(value, dtype) for value in values]

    small = [2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 2.0**-14, -(2.0**-25), 1e-30, -1e-30, 0.0]
    beside = [1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-22, 1 + 3 * 2.0**-11, 1 + 2.0**-8, 1 + 3 * 2.0**-8, -3.3]
    double = [1 + 3 * 2.0**-8 - 2.0**-40, 1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-24 + 2.0**-50]
    finite = [65504.0, 65519.96875, -65519.0, float("inf"), -float("inf")]

    def bits(dtype: str, values: list[float]) -> list[int]:
        infinite = {float("inf"): 0, -float("inf"): 1}
        digits, top, size = FORMATS[dtype]
        special = (2 * top + 1) << (digits - 1)
        return [special | infinite[x] << (8 * size - 1) if x in infinite else rounded_bits(x, dtype) for x in values]

    tensors = {}
    for dtype in FORMATS:
        numbers = [
            *small,
            *(double if dtype == "F64" else beside),
            *(finite if dtype in ("F32", "F64") else [2.0, -0.0]),
        ]
        tensors[dtype] = dense(dtype, (2, 12), bits(dtype, numbers) + [0] * (24 - len(numbers)))
    tensors["flat"] = dense("F64", (len(double),), bits("F64", double))
    tensors["F8_E4M3"] = dense("F8_E4M3", (1, 40), [0] * 38 + [128, 1])
    tensors["I32"] = dense("I32", (1, 3), [0, 1, 2])
    for new in ("F16", "BF16", "F32"):
        purpose = "values rounded twice, or towards zero; a support judged behind the cast; another dtype cast as well"
        clauses = "FMT-126 FMT-129 FMT-127"
        cases.add(f"cast-{new}", clauses, purpose, tensors, cast=new)
    few = {name: tensors[name] for name in ("F32", "F16")}
    cases.add("cast-positive", "FMT-126 FMT-127", purpose, few, cast="F16", zeros="positive")
    cases.add("cast-dense", "FMT-122 FMT-126 FMT-129", purpose, few, cast="BF16", encoding="dense")
    payload = {"w": dense("F32", (2, 20), [0x7FA1_2345, 0xFFC0_0001] + [0] * 38)}
    cases.add("cast-own", "FMT-126 FMT-125", "a NaN changed by a cast to its own dtype", payload, cast="F32")


def _quantised(cases: Folders) -> None:
    """Add configs that describe a quantisation, and configs that do not."""
    packed: dict[str, Any] = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {}}}
    cache = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}}
    gptq = {"quant_method": "gptq", "bits": 4}
    sparse = {"quant_method": "sparseml", "format": "dense", "sparsity_config": {"format": "sparse-bitmask"}}
    codes = {"w": dense("I32", (2, 3), [0] * 5 + [9])}
    for name, config, quantised in (
        ("groups", {"quantization_config": packed}, True),
        ("inner", {"a": {"text_config": {"compression_config": packed}}}, True),
        ("list", {"parts": [1, {"quantization_config": gptq}]}, True),
        ("cache", {"quantization_config": cache}, True),
        ("other", {"quantization_config": gptq}, True),
        ("sparsity", {"compression_config": sparse}, False),
        ("null", {"quantization_config": None}, False),
        ("empty", {"quantization_config": {}}, False),
        ("no-json", None, False),
    ):
        raw = b"[" if config is None else json.dumps(config).encode()
        purpose = "a quantisation that nobody is told of, or told of where there is none"
        cases.add(f"quantised-{name}", "FMT-128", purpose, codes, {"config.json": raw}, quantised=quantised)
    purpose = "another file looked at for a quantisation"
    cases.add("quantised-elsewhere", "FMT-128", purpose, codes, {"quantize.json": json.dumps(gptq).encode()})


AREAS = (
    whole,
    back,
    adapters,
)
