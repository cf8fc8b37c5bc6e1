"""Properties of GGUF files (FMT-155)."""

import struct
from math import prod

from conformance.answers.files_content import raw_array
from conformance.oracle import files_gguf
from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_convert import packed
from conformance.oracle.files_gguf import Stored
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of

__all__: list[str] = []

_DTYPES = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")
_SHAPES = ((3,), (2, 3), (), (1, 2, 4), (5, 1), (1,))
_PAIRS = (
    ("general.name", 8, struct.pack("<Q", 2) + b"\xff\0"),
    ("general.quantization_version", 4, struct.pack("<I", 2)),
    ("split.count", 2, struct.pack("<H", 1)),
    ("tokenizer.ggml.scores", 9, struct.pack("<IQ2f", 6, 2, 0.5, 1)),
    ("tokenizer.ggml.tokens", 9, struct.pack("<IQQ", 8, 2, 1) + b"a" + struct.pack("<Q", 0)),
    ("deep", 9, struct.pack("<IQIQ2B", 9, 1, 0, 2, 1, 2)),
    ("flag", 7, b"\1"),
)
_FAULTS = ("a byte more", "cut", "version", "a name twice", "an odd alignment", "a key twice", "parts", "a gap")


@property_of(
    "convert.gguf", "FMT-155", "foreign", "convert.gguf", sees=("quantised", "quantised, not expanded", "a fault")
)
def _gguf(d: Draw, t: Trial) -> None:
    """The tensors of a GGUF file keep every bit, or become F32 if they are quantised and are to be expanded."""
    tensors: dict[str, Stored] = {}
    for name in d.some(("token_embd.weight", "a", "é", "blk.0.attn_q.weight"), d.integer(1, 3)):
        if d.flag(4):
            kind, matrix = d.choice((2, 8)), (d.integer(1, 2), 32 * d.integer(1, 2))
            size = prod(matrix) // 32 * files_gguf.BLOCKS[kind]
            raw = bytearray(d.integers(size, 0, 255))
            # the scales are finite, because the bits of a NaN would be open
            raw[1 :: files_gguf.BLOCKS[kind]] = bytes(b & 0xBB for b in raw[1 :: files_gguf.BLOCKS[kind]])
            tensors[name] = kind, matrix, bytes(raw)
        else:
            dtype, shape = d.choice(_DTYPES), d.choice(_SHAPES)
            words = d.integers(prod(shape), 0, min(2 ** BITS[dtype] - 1, 2**60))
            tensors[name] = Tensor(dtype, shape, packed(dtype, words))
    expand = d.integer(0, 1)
    stored = [*tensors.items()]
    has_codes = any(isinstance(one, tuple) for one in tensors.values())
    t.saw("quantised" if expand else "quantised, not expanded", has_codes)
    alignment, pairs = d.choice((32, 32, 8, 64, 1)), d.some(_PAIRS, d.integer(0, 4))
    raw_file = files_gguf.written(stored, pairs, version=d.choice((3, 2)), alignment=alignment, last_pad=d.flag())
    if d.flag(3):
        raw_file = _spoilt(d, d.choice(_FAULTS), raw_file, stored)
        t.saw("a fault")
    t.case("convert.gguf", {"raw": raw_array(raw_file), "expand_quantised": expand})


def _spoilt(d: Draw, fault: str, raw: bytes, stored: list[tuple[str, Stored]]) -> bytes:
    """Return a file with a fault."""
    if fault == "a byte more":
        return raw + bytes(128)
    if fault == "cut":
        return raw[: d.integer(0, len(raw) - 1)] if d.flag() else raw[:30]
    if fault == "version":
        return raw[:4] + d.choice((struct.pack("<I", 1), struct.pack(">I", 3), struct.pack("<I", 4))) + raw[8:]
    if fault == "a name twice":
        return files_gguf.written([*stored, stored[0]])
    if fault == "a gap":
        return files_gguf.written(stored, gap=32)
    pairs = {
        "an odd alignment": [("general.alignment", 4, struct.pack("<I", d.choice((0, 3, 48))))],
        "a key twice": [_PAIRS[0], _PAIRS[6], _PAIRS[0]],
        "parts": [("split.count", 2, struct.pack("<H", 2))],
    }[fault]
    return files_gguf.written(stored, pairs)
