"""Mutants of conversions: misread zeros and floats, wrong casts, folders that are not checked."""

import json
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np

from conformance.engine.parts import checks, container, encoding, hf, quantised, reader, records, sparsify, stock
from conformance.wrong.mutants.base import Mutant, Operation, Values, after, changed, edits, mutants, reset, right

OP, BACK = "convert.from_hf", "convert.to_hf"


def without(name: str) -> Operation:
    """Return a conversion that leaves out an attribute."""

    def change(out: Values, _: Values) -> Values:
        text = out["attributes"]
        inner = [one for one in text[1:-1].split(",") if f'"{name}"' not in one]
        return {"attributes": "{" + ",".join(inner) + "}"}

    return after(OP, change)


def told(change: Callable[[str], bool]) -> Operation:
    """Return a conversion that reports only some of the files that it leaves out."""
    return after(OP, lambda out, _: {"left_out": [name for name in out["left_out"] if change(name)]})


def canonical_nan(out: Values, _: Values) -> Values:
    """Replace every NaN of F32 tensors by the same one."""
    tensors = dict(out["tensors"])
    for name, t in tensors.items():
        if t["dtype"] == "F32":
            values = t["bits"].view(np.float32).copy()
            values[np.isnan(values)] = np.nan
            tensors[name] = t | {"bits": values.view(np.uint8)}
    return {"tensors": tensors}


def empty_companions(out: Values, _: Values) -> Values:
    return {"companions": {}}


def zeros_of(value: str) -> Operation:
    return changed(OP, zeros=lambda _: value)


def of_encoding(value: str, instead: str) -> Operation:
    return changed(OP, encoding=lambda a: instead if a["encoding"] == value else a["encoding"])


def always(number: int) -> Operation:
    """Return a conversion that always reports `number` as its output `quantised`."""
    return after(OP, lambda *_: {"quantised": number})


def truncated(values: Any, dtype: Any) -> Any:
    """Cast to BF16 by cutting off the lower bits."""
    if dtype != container.DTYPES["BF16"] or values.dtype == dtype:
        return values.astype(dtype)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(dtype)


def rounded_twice(values: Any, dtype: Any) -> Any:
    """Cast to BF16 by way of float32."""
    return (values.astype(np.float32) if dtype == container.DTYPES["BF16"] else values).astype(dtype)


def rewritten_files(change: Callable[[str, bytes], bytes]) -> Operation:
    """Return a conversion back whose files are changed afterwards."""

    def changed_files(out: Values, a: Values) -> Values:
        files = {name: change(name, raw.tobytes()) for name, raw in out["files"].items()}
        return {"files": {name: np.frombuffer(raw, dtype=np.uint8) for name, raw in files.items()}}

    return after(BACK, changed_files)


def other_total(name: str, raw: bytes) -> bytes:
    """Make the index say that every tensor is in the first shard."""
    if name != hf.INDEX:
        return raw
    index = json.loads(raw)
    first = min(index["weight_map"].values())
    return json.dumps(index | {"weight_map": dict.fromkeys(index["weight_map"], first)}).encode()


def no_metadata(name: str, raw: bytes) -> bytes:
    """Change the metadata that stock loaders ask for."""
    return raw.replace(b'"format":"pt"', b'"format":"np"') if name.endswith(".safetensors") else raw


def ones(tensor: Any, *, limit: int) -> Any:
    """Return a dense F32 tensor with 1 in place of zeros."""
    dense = records.to_dense(tensor, limit=limit)
    if tensor.nnz < dense.size and dense.dtype == np.float32:
        dense.reshape(-1)[dense.reshape(-1) == 0] = 1
    return dense


def plain_zeros(tensor: Any, *, limit: int) -> Any:
    """Return a dense tensor in which every zero is +0.0."""
    dense = records.to_dense(tensor, limit=limit)
    return dense + dense.dtype.type(0) if dense.dtype in (np.float16, np.float32) else dense


def unverified(self: Any, name: str) -> Any:
    """Return a tensor without verifying its digests."""
    return self[name]


def without_companions(out: Values, a: Values) -> Values:
    return {"files": {name: raw for name, raw in out["files"].items() if name not in ("config.json", "empty")}}


def sized(part_bytes: Callable[[int], int]) -> Operation:
    return changed(BACK, part_bytes=lambda a: part_bytes(a["part_bytes"]))


def not_verified(a: Values) -> Values:
    """Convert without verifying digests."""
    with patch.object(reader.Reader, "load_verified", unverified):
        return right(BACK)(a)


_BACK: list[Mutant] = [
    *mutants(BACK,
        ("FMT-124", without_companions, "no companions"),
        ("FMT-124", rewritten_files(no_metadata), "metadata of another library"),
        ("FMT-124", rewritten_files(other_total), "an index with one shard"),
        ("FMT-124", sized(lambda n: 10**9), "one file whatever its size"),
        ("FMT-124", sized(lambda n: max(1, n - 1)), "shards where one file holds all"),
        ("FMT-124", sized(lambda n: n + 1), "a shard of a byte more than it may hold"),
        ("FMT-124", not_verified, "digests not verified"),
        ("FMT-126", {"cast": lambda _: None}, "no cast"),
        unchecked="FMT-126 FMT-154 FMT-084 FMT-094"),
    reset("FMT-124", BACK, hf, "absent entries that are not zero", to_dense=ones),
    reset("FMT-125", BACK, hf, "a stored −0.0 that loses its sign", to_dense=plain_zeros),
    reset("FMT-129", BACK, checks, "a cast that rounds twice", rounded_once=rounded_twice),
    reset("FMT-126", BACK, checks, "F8 is cast as well", CASTABLE=checks.CASTABLE | {"F8_E4M3FNUZ"}),
]  # fmt: skip

MUTANTS: list[Mutant] = [
    *mutants(OP,
        ("FMT-127", zeros_of("any"), "any whatever is asked for"),
        ("FMT-127 FMT-125", zeros_of("positive"), "positive whatever is asked for"),
        ("FMT-127", without("negative_zeros_left_out"), "the number of −0.0 is not recorded"),
        ("FMT-127", sparsify.sparsified, "if becomes_sparse or zeros == POSITIVE:", "if True:",
         "a −0.0 counted that a dense tensor keeps"),
        ("FMT-127", sparsify.sparsified, "if negative and zeros == ANY", "if zeros == ANY",
         "a number of −0.0 that is 0 recorded"),
        ("FMT-122", sparsify.sparsified, 'encoding != "auto" or pays(', "True or pays(",
         "auto makes every float matrix sparse"),
        ("FMT-122", encoding.pays, " < section", " <= section", "auto makes sparse what gains nothing"),
        ("FMT-122", sparsify.sparsified, "tensor.shape, stored)", "tensor.shape, with_negative)",
         "auto counts −0.0 as stored"),
        ("FMT-129", sparsify.sparsified, "pays(_dtype_after_cast(tensor, dtype)", "pays(dtype_name(tensor.dtype)",
         "sizes compared before the cast"),
        ("FMT-122", sparsify._can_be_sparse, "len(tensor.shape) > 1 and", "tensor.shape and", "vectors sparse"),
        ("FMT-122", sparsify._can_be_sparse, ' and name != "F8_E8M0"', "", "F8_E8M0 sparse"),
        ("FMT-122", of_encoding("dense", "csr"), "dense makes sparse"),
        ("FMT-122", of_encoding("csr", "auto"), "csr leaves dense what gains nothing"),
        ("FMT-125", canonical_nan, "every NaN the same"),
        ("FMT-126", without("cast"), "a cast is not recorded"),
        ("FMT-126", {"cast": lambda _: None}, "no cast"),
        ("FMT-126", sparsify._tensor, "tensor = from_dense(tensor.values, zeros)",
         "tensor = from_dense(cast(tensor, dtype, name).values, zeros)", "a support judged behind the cast"),
        ("FMT-123", empty_companions, "no companions"),
        ("FMT-123", told(lambda name: not name.startswith(".")), "hidden files are not named"),
        ("FMT-123", told(lambda name: not name.endswith("/")), "folders are not named"),
        ("FMT-123", told(lambda name: not name.endswith(".safetensors")), "weights that nobody reads not named"),
        ("FMT-120", hf._weight_map, "not _SHARD_NAME.fullmatch(file_name)",
         'not file_name.endswith(".safetensors")', "a shard of any name"),
        ("FMT-121", stock._check_cover, "section.begin != at or ", "", "holes and shared bytes"),
        ("FMT-121", stock._check_cover, "if at != file.size - file.data_start:",
         "if at > file.size - file.data_start:", "bytes behind the last tensor"),
        ("FMT-121", stock.open_stock, "validate.check_shape(section.shape, section.name)", "pass",
         "shapes of any size"),
        ("FMT-128", always(0), "a quantisation that nobody is told of"),
        ("FMT-128", always(1), "a quantisation that is none"),
        ("FMT-128", quantised._named, "isinstance(value, list)", "False", "lists not looked into"),
        ("FMT-128", quantised.quantises, '("config_groups", "kv_', '("config_groups", "no_', "no cache looked for"),
        unchecked="FMT-120 FMT-121 FMT-126 FMT-084 FMT-013 FMT-009 FMT-070"),
    *edits(OP, "FMT-123", hf._sorted_out,
        ("path.name.lower().ends", "path.name.ends", "endings in one case only"),
        ("size > validate", "size >= validate", "a limit one off"),
        ('startswith(".")', 'startswith("..")', "hidden files travel")),
    *edits(OP, "FMT-120", hf._shards,
        ("if (folder / WHOLE).is_file():", "if (folder / WHOLE).is_file() and not (folder / INDEX).is_file():",
         "shards before a whole file"),
        ("wrong = sorted(stored ^ set(", "wrong = sorted(stored - set(", "a tensor missing"),
        ("wrong = sorted(stored ^ set(", "wrong = sorted(set() & set(", "no agreement")),
    reset("FMT-129", OP, sparsify, "C64 sparse", FLOATS=container.FLOATS | {"C64"}),
    reset("FMT-129", OP, sparsify, "BF16 never sparse", FLOATS=container.FLOATS - {"BF16"}),
    reset("FMT-122", OP, sparsify, "F4 never sparse", FLOATS=container.FLOATS - {"F4"}),
    reset("FMT-129", OP, checks, "a cast that rounds twice", rounded_once=rounded_twice),
    reset("FMT-129", OP, checks, "a cast that cuts", rounded_once=truncated),
    reset("FMT-126", OP, checks, "F8 is cast as well", CASTABLE=checks.CASTABLE | {"F8_E4M3"}),
    *_BACK,
]  # fmt: skip
