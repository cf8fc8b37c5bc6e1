"""Cases of chapter 12 that the other cases lack: gaps, ranks, pointers, zeros of either sign, odd names."""

import struct

from conformance.gen.files import F16, FLAGS, Files, on, raw_array, regular
from conformance.gen.files_deltas import add_delta, half
from conformance.gen.files_refused import with_data
from conformance.gen.numbers import Area
from conformance.oracle import files, files_deltas
from conformance.oracle.files import Pieces, Tensor


def edges() -> Area:
    """Return cases of files at the bound of gaps, with spare bits or falling pointers (FMT-057, FMT-067, FMT-072)."""
    cases = Files("hole-file")
    for numel in (510, 511):
        # the gap before the only slot takes as many bytes as FMT-057 allows
        text = "a bound of n + numel / 256 bytes"
        tensors = {"w": on("U8", (1, numel), [numel - 1])}
        cases.add(f"gaps-{numel}", "FMT-057 FMT-054", text, tensors, "gap8")
    text = "a bound of n + numel / 255 that is rounded up"
    shorter = files.pieces({"w": on("U8", (1, 509), [508])}, {"w": "gap8"})
    with_data("gaps", b"\xff\xff\x00")(shorter)
    _refuse(cases.area, "gaps-509", "FMT-057 FMT-059", text, shorter)
    for name, shape, pattern, at in (
        ("axis-0", (4, 3), (2, 4, 0), -1),
        ("axis-0-first", (8, 3), (2, 4, 0), 1),
        ("axis-1", (2, 4, 3), (1, 4, 1), 0),
        ("last", (3, 12), (2, 4, 1), 1),
    ):
        pieces = files.pieces({"w": regular(shape, *pattern, 61)}, {"w": "nm"})
        ranks = next(s for s in pieces.sections if s.name == "w#ranks")
        spoilt = bytearray(ranks.data)
        spoilt[at] |= 0x80
        ranks.data = bytes(spoilt)
        pieces.manifest["tensors"]["w"]["sections"]["ranks"] = files.stored(ranks)
        text = "spare bits of ranks looked at along the last axis only, or in the last row only"
        _refuse(cases.area, f"spare-{name}", "FMT-072", text, pieces)
    for name, pointers in (("first", (0, 3, 1, 3, 4)), ("far", (0, 2**31 + 1, 2, 3, 4))):
        pieces = files.pieces({"w": on("F32", (4, 9), [1, 9, 20, 30])}, {"w": "csr"})
        with_data("row_ptr", struct.pack("<5I", *pointers))(pieces)
        text = "a fall of pointers that wraps to a large number, or to a negative one"
        _refuse(cases.area, f"pointers-{name}", "FMT-067", text, pieces, "FMT-067 FMT-069")
    return cases.area


def _refuse(area: Area, name: str, clauses: str, purpose: str, made: Pieces, by: str = "") -> None:
    inputs = {"raw": raw_array(made.pack())}
    area.add(f"refuse-{name}", "file.read", clauses, purpose, inputs, refused=by or clauses)


def changes() -> Area:
    """Return cases of deltas with sums of zeros, and with names that contain a separator (FMT-132, FMT-135)."""
    area = Area("hole-delta", "position by position")
    for dtype, one, minus in (
        ("F16", half(1.0), half(-0.0)),
        ("F32", struct.pack("<f", 1.0), struct.pack("<f", -0.0)),
    ):
        zero = bytes(len(one))
        base = {"w": on(dtype, (2, 4), [0, 3, 5], one + minus + zero)}
        # −0 is added to no entry, to −0 and to +0; two other numbers cancel
        opposite = bytes([*one[:-1], one[-1] | 0x80])
        stored = {"add:w": on(dtype, (2, 4), [0, 1, 3, 5], opposite + minus + minus + minus)}
        target, described = files_deltas.step(base, stored)
        chain = {"1": files.pieces(stored, kind="delta", delta=described)}
        purpose = "an amount taken as it is where the base has no value: 0 + −0 is +0"
        add_delta(area, f"zeros-{dtype}", "FMT-135", base, chain, target, purpose)
    base = {
        "a:b": on("F16", (2, 3), [0, 4], half(1, 2)),
        "b": FLAGS,
        "add:w": on("F32", (2, 2), [1], struct.pack("<f", 3.0)),
        ":": Tensor("U8", (1,), b"\7"),
        "gone:b": F16,
    }
    stored = {
        "replace:a:b": on("F16", (2, 3), [4], half(5)),
        "add:add:w": on("F32", (2, 2), [0], struct.pack("<f", 0.5)),
        "whole:whole:b": Tensor("U8", (2,), b"\1\2"),
        "whole::": Tensor("U8", (1,), b"\x08"),
    }
    target, described = files_deltas.step(base, stored, ("gone:b",))
    chain = {"1": files.pieces(stored, kind="delta", delta=described)}
    purpose = "a name parted at its last colon"
    add_delta(area, "colons", "FMT-132 FMT-134 FMT-135 FMT-136", base, chain, target, purpose)
    _minus_zeros(area)
    return area


def _minus_zeros(area: Area) -> None:
    """Add a delta that writes −0 over a number and over +0 (FMT-134)."""
    base = {"w": on("F16", (2, 3), [0, 1, 4], half(1, 0, 2))}
    stored = {"replace:w": on("F16", (2, 3), [0, 1], half(-0.0, -0.0))}
    target, described = files_deltas.step(base, stored)
    chain = {"1": files.pieces(stored, kind="delta", delta=described)}
    purpose = "values that are added to 0, or zeros without a sign"
    add_delta(area, "minus-zero", "FMT-134", base, chain, target, purpose)


AREAS = (
    edges,
    changes,
)
