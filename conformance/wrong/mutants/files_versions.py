"""Mutants of readers of version folders and Super-Tuning adapters (FMT-168, FMT-170)."""

from typing import Any

import numpy as np

from conformance.engine.parts import changes, hf, padding, super_tuning, version_index, weight_sync
from conformance.wrong.mutants.base import Mutant, Values, edits, mutants, reset

OP = "convert.adapter"
_SUM, _SUM_WRONG = weight_sync.Version.changes, "if actual != promised:"
_APPLIED, _FRAME, _INDEX = weight_sync._applied, weight_sync._expanded, version_index.read_index
_XOR, _RISE = "return old ^ _expanded(frame, old.size, old.size, name)", "np.all(at[1:] > at[:-1])"
_PAYLOAD, _STATED = "_expanded(frame, 4, 4 + 5 * old.size, name)", "size = zstandard.frame_content_size(frame.data)"
_COUNT, _OFFSETS = 'raw[:4].view("<u4")', 'view("<u4").astype(np.int64)'
_LENGTH, _WHOLE = "if raw.size != 4 + 5 * count:", "compress.expand(frame, size)"
_ROOM = "int(positions * (1 - sparsity))"


def equal_zeros(out: Values, a: Values) -> Values:
    """Leave out the changes of an F32 tensor if each of its new values is a zero of either sign or NaN."""
    return {"tensors": {n: t for n, t in out["tensors"].items() if t["dtype"] != "F32" or _values(t).any()}}


def _values(t: Values) -> Any:
    return np.nan_to_num(t["bits"].view(np.float32))


def of_first_file(out: Values, a: Values) -> Values:
    """Return the tensors of the first file alone."""
    if a["kind"] != "weight-sync":
        return {}
    first = a["files"][min(name for name in a["files"] if name.endswith(".safetensors"))].tobytes()
    return {"tensors": {name: t for name, t in out["tensors"].items() if f'"{name}"'.encode() in first}}


def others_too(out: Values, a: Values) -> Values:
    """Return every tensor of the base, also those that the folder does not name."""
    if a["kind"] != "weight-sync":
        return {}
    return {"tensors": dict.fromkeys(a["tensors"], next(iter(out["tensors"].values()), {})) | out["tensors"]}


_VERSIONS: list[Mutant] = [
    *mutants(OP,
        ("FMT-168", equal_zeros, "−0.0 in place of +0.0 taken for no change"),
        ("FMT-168", of_first_file, "one file of a version read"),
        ("FMT-168", others_too, "tensors that a version does not name"),
        ("FMT-168", changes.replacement, "bits(new) != bits(old)", "new != old", "values compared as numbers"),
        ("FMT-168", _FRAME, _STATED, f"{_STATED}\n        size = most if size < 0 else size",
         "a frame that states no size"),
        ("FMT-168", _FRAME, _WHOLE, "zstandard.ZstdDecompressor().decompress(frame.data)", "bytes behind a frame"),
        ("FMT-168", weight_sync.open_version, "set(stored) != mapped or summed != mapped",
         "mapped - set(stored) or mapped - summed", "tensors not in the index"),
        ("FMT-168", weight_sync.open_version, 'check_vector(section, frozenset({"U8"}), "FMT-168")', "pass",
         "frames of any dtype and shape"),
        unchecked="FMT-168 FMT-121 FMT-070"),
    *edits(OP, "FMT-168", _SUM,
        (_SUM_WRONG, "if False:", "a checksum that is not compared"),
        (_SUM_WRONG, "if actual != promised.lower():", "a checksum in capitals"),
        (_SUM_WRONG, "if int(actual, 16) != int(promised, 16):", "a checksum without its first zeros"),
        ("checksum_of(algorithm)(data)", "checksum_of(algorithm)(_bytes_of(values))", "a checksum of the old bytes"),
        ("values = to_dense(before, limit=LIMIT)", "values = before.values", "offsets that count stored values")),
    *edits(OP, "FMT-168", _APPLIED,
        ('if encoding == "xor":', "if True:", "overwrite taken for xor"),
        ('if encoding == "xor":', "if False:", "xor taken for overwrite"),
        (_XOR, _XOR.replace("old ^ ", ""), "a difference taken for the new bytes"),
        (_XOR, "return old ^ np.resize(_expanded(frame, 1, 99, name), old.size)", "a difference of another length"),
        (_COUNT, 'raw[:4].view(">u4")', "a number of big-endian bytes"),
        (_COUNT, "raw[:1]", "a number of one byte"),
        (_OFFSETS, 'view("<u4").astype(np.uint16).astype(np.int64)', "offsets of two bytes"),
        (_OFFSETS, 'view("<i4").astype(np.int64)', "offsets with a sign"),
        (_OFFSETS, 'view("<u4").astype(np.int64) * old.dtype.itemsize // 2', "offsets of values of two bytes"),
        (_PAYLOAD, f"{_PAYLOAD[:-7]} + 9, name)\n    raw = raw[: 4 + 5 * int({_COUNT}[0])]",
         "bytes behind the last new one"),
        (_LENGTH, "count = min(count, raw.size // 5)\n    if raw.size < 4:", "a number larger than what follows"),
        (_RISE, "True", "offsets in any order"),
        (_RISE, "np.all(at[1:] >= at[:-1])", "an offset that comes twice"),
        ("if count and (at[-1] >= old.size or", "at = np.minimum(at, old.size - 1)\n    if count and (",
         "offsets behind the end")),
    *edits(OP, "FMT-168", _INDEX,
        ('digits = r"\\d{6,}"', 'digits = r"\\d+"', "versions of fewer digits"),
        ('digits = r"\\d{6,}"', 'digits = r"\\d{6}"', "versions of seven digits refused"),
        ('"base_version": digits,', "", "any base_version"),
        ('"compression_format": ("zstd", "zstd"),', "", "any compression"),
        ('("|".join(ENCODINGS), " or ".join(ENCODINGS))', '(".*", "")', "any encoding taken for overwrite")),
    reset("FMT-168", "convert.from_hf", hf, "a step read as a model", refuse_version=lambda _: None),
]  # fmt: skip

_SUPER_TUNING: list[Mutant] = [
    *mutants(OP,
        ("FMT-170", padding.without_padding, "~adds_nothing(amounts.values)", "amounts.values != 0",
         "amounts of +0.0 taken for padding"),
        ("FMT-170", super_tuning._refuse_what_is_no_list, 'if adapter.config.get("r") or roles & FACTORS:',
         'if adapter.config.get("r"):', "factors left out"),
        ("FMT-170", super_tuning._says_padded, "mark not in (None, MINUS_ZERO)", "False", "any mark of padding"),
        unchecked="FMT-170"),
    *edits(OP, "FMT-170", super_tuning.room_of,
        (_ROOM, "int(positions - positions * sparsity)", "room computed as n − n · sparsity"),
        (_ROOM, "round(positions * (1 - sparsity))", "room that is rounded"),
        (_ROOM, "-int(-positions * (1 - sparsity) // 1)", "room that is rounded up"),
        (_ROOM, "int(round(positions * (1 - sparsity), 9))", "room computed in decimal digits"),
        (_ROOM, "int(np.float32(positions) * np.float32(1 - sparsity))", "room computed in binary32"),
        (_ROOM, "int(positions * sparsity)", "the share that stays taken for the one that changes")),
    *edits(OP, "FMT-170", super_tuning.read_super_tuning,
        ("if values.size != expected:", "if values.size > expected:", "fewer amounts than room"),
        ("if values.size != expected:", "if values.size < expected:", "more amounts than room"),
        ("if len(shape) != 2:", "if False:", "bases of any shape"),
        ("if padded else amounts", "if True else amounts", "amounts of −0.0 left out without the mark"),
        ("if padded else amounts", "if False else amounts", "padding that is read"),
        ("with_values(support, values[permutation])", "with_values(support, values)", "values not sorted"),
        ("if not 0 <= sparsity < 1:", "if not 0 <= sparsity:", "a sparsity of 1"),
        ("if not 0 <= sparsity < 1:", "if not sparsity < 1:", "a sparsity below 0")),
    *edits(OP, "FMT-170", super_tuning._check_sections,
        ("if indices.shape != values.shape:", "if False:", "indices and values of two lengths"),
        ('check_vector(values, WRITABLE, "FMT-170")', "pass", "amounts of any dtype"),
        ('check_vector(indices, frozenset({"I32", "I64"}), "FMT-170")', "pass", "indices of any dtype")),
    reset("FMT-170", OP, super_tuning, "options of Super-Tuning not looked at", check_options=lambda *_: None),
]  # fmt: skip

MUTANTS: list[Mutant] = [*_VERSIONS, *_SUPER_TUNING]
