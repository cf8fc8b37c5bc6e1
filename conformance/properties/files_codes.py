"""Properties of folders of integer codes that are expanded (FMT-172 to FMT-175)."""

from dataclasses import replace
from typing import Any

from conformance.answers import answer
from conformance.oracle import files_codes as oracle
from conformance.oracle.files_codes import Codes
from conformance.properties.draws import Draw
from conformance.properties.files_codes_drawn import AWQ, GPTQ, V2, drawn, files_of, library, scheme, shuffled
from conformance.properties.trial import Trial, property_of

OP = "convert.codes"
_SOURCES = ("pack-quantized", "int-quantized", "gptq", "gptq_v2", "awq")
_DTYPES = ("F16", "BF16", "F32")
_SHAPES = {2: (16, 16), 3: (32, 32), 4: (8, 8), 8: (4, 4)}
"""Bits -> the least rows and columns whose codes fill words."""


@property_of(
    "convert.codes",
    "FMT-172 FMT-173 FMT-174 FMT-175",
    "codes",
    OP,
    sees=("gptq", "awq", "codes in two words", "a stated group", "a symmetric matrix", "a weight that overflows"),
    cost=3,
)
def _codes(d: Draw, t: Trial) -> None:
    """A folder of codes becomes the weights of its codes; it is refused if one overflows, or nobody asked to expand."""
    source = d.choice(_SOURCES)
    make = _of_library if source in _SOURCES[:2] else _of_programs
    inputs = make(d, t, source)
    encoding = d.choice(("csr", "auto", "dense"))
    inputs |= {"expand_quantised": int(not d.flag(6)), "encoding": encoding}
    t.saw("a weight that overflows", "FMT-173" in answer(OP, inputs).refused)
    t.case(OP, inputs)


def _spoilt(d: Draw, m: Codes) -> Codes:
    """Return a matrix; one time in four a scale of it is 0, negative, the smallest or the largest."""
    if not d.flag(4):
        return m
    largest = {"F16": 0x7BFF, "BF16": 0x7F7F, "F32": 0x7F7F_FFFF}[m.dtype]
    sign = 1 << (31 if m.dtype == "F32" else 15)
    first = d.choice((0, largest, sign | m.scales[0][0], 1))
    return replace(m, scales=[[first, *m.scales[0][1:]], *m.scales[1:]])


def _of_programs(d: Draw, t: Trial, source: str) -> dict[str, Any]:
    """Return the folder of a matrix as programs for GPTQ and AWQ write it."""
    t.saw("awq" if source == "awq" else "gptq")
    bits = 4 if source == "awq" else d.choice((4, 8, 2, 3))
    out, least = (8, 8) if source == "awq" else _SHAPES[bits]
    columns = least * d.integer(1, 2)
    size = d.choice((columns, least, least // 2))
    lowest = -(1 << bits - 1) + (source == "gptq")
    m = _spoilt(d, drawn(d, (out, columns), bits, size, d.choice(_DTYPES), zeros=lowest))
    t.saw("codes in two words", bits == 3)
    if source == "awq":
        return files_of(AWQ | {"group_size": size}, oracle.awq(m))
    order = d.flag()
    m = shuffled(d, m) if order else m
    t.saw("a stated group", order)
    description = (GPTQ if source == "gptq" else V2) | {"bits": bits, "group_size": size, "desc_act": order}
    index = d.choice(("I32", "I64")) if order or d.flag() else ""
    return files_of(description, oracle.gptq(m, less=int(source == "gptq"), index=index))


def _of_library(d: Draw, t: Trial, source: str) -> dict[str, Any]:
    """Return the folder of a matrix as compressed-tensors writes it."""
    bits = d.choice((4, 8, 1, 2)) if source == "pack-quantized" else d.integer(1, 8)
    size, count = d.integer(1, 6), d.integer(1, 3)
    zeros = None if d.flag() else -(1 << bits - 1)
    m = _spoilt(d, drawn(d, (d.integer(1, 5), size * count), bits, size, d.choice(_DTYPES), zeros=zeros))
    t.saw("a symmetric matrix", zeros is None)
    order = d.flag()
    m = shuffled(d, m) if order else m
    index = d.choice(("I32", "I64")) if order else ""
    parts = (
        oracle.pack_quantized(m, index=index) if source == "pack-quantized" else oracle.int_quantized(m, index=index)
    )
    return files_of(library(scheme(bits, "group", size, symmetric=zeros is None), source), parts)
