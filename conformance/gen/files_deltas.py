"""Cases of 12.10: deltas that are applied, alone or in chains, and deltas that are refused."""

import copy
import math
import struct
from typing import Any

from conformance.gen.files import F16, FLAGS, content, on, raw_array
from conformance.gen.numbers import Area
from conformance.oracle import files, files_deltas
from conformance.oracle.files import Pieces, Tensor


def half(*numbers: float) -> bytes:
    """Return the bytes of F16 values."""
    return struct.pack(f"<{len(numbers)}e", *numbers)


BASE = {
    "d": Tensor("F32", (2, 2), struct.pack("<4f", 1.5, -0.0, 2.5, 3.5)),
    "gone": FLAGS,
    "s": on("F16", (3, 3), [0, 4, 6, 7], half(1, 2, 3, 4)),
}

FIRST = {
    # in s: 2 is removed, 0 is added at (0, 1), 3 becomes 3.5
    "replace:s": on("F16", (3, 3), [1, 6], half(0, 3.5)),
    "remove:s": on("NONE", (3, 3), [4]),
    "replace:d": on("F32", (2, 2), [1], struct.pack("<f", 0.0)),
    "whole:new": F16,
}


# in s: 1 + 2^-12 rounds to 1, 3.5 + 1 is exact, -0.25 is added to 0, because (1, 2) has no entry
SECOND = {"add:s": on("F32", (3, 3), [0, 5, 6], struct.pack("<3f", 2**-12, -0.25, 1.0))}


def applied() -> Area:
    """Return cases of deltas that are applied, and of deltas that are refused."""
    area = Area("file-delta", "position by position")
    one, first = files_deltas.step(BASE, FIRST, ("gone",), tied={"t": "d"})
    two, second = files_deltas.step(
        one, SECOND, before={"tied": {"t": "d"}}, tied={"t": "d"}, scales={"s": {"scale": "d"}}
    )
    ends: list[tuple[str, str, dict[str, Any], dict[str, Tensor], dict[str, Any]]] = [
        ("one", "FMT-134 FMT-136", {"1": _file(FIRST, first)}, one, {"tied": {"t": "d"}}),
        (
            "two",
            "FMT-135 FMT-139",
            {"1": _file(FIRST, first), "2": _file(SECOND, second)},
            two,
            {"tied": {"t": "d"}, "scales": {"s": {"scale": "d"}}},
        ),
    ]
    for dtype, raw in (
        ("BF16", struct.pack("<3H", 0x3F80, 0x3F81, 0xC2C8)),
        ("F16", half(1, 2049, -0.5)),
        ("F32", struct.pack("<3f", 1, 2**24, 1e-45)),
        ("F64", struct.pack("<3d", 1, 2**53, 1e300)),
    ):
        base = {"w": on(dtype, (2, 4), [0, 3, 5], raw)}
        # some sums are ties, which go to even; 2^-8 + 2^-33 becomes a tie when it is rounded to F32
        amounts = struct.pack("<4d", 2**-8 + 2**-33, 2**-9, 1.0, -0.125)
        stored = {"add:w": on("F64", (2, 4), [0, 2, 3, 5], amounts)}
        target, described = files_deltas.step(base, stored)
        add_delta(area, f"add-{dtype}", "FMT-135", base, {"1": _file(stored, described)}, target)
    # the sum is a tie after rounding to F32, so that 1 stays; rounding straight to F16 would go up
    near = {"w": on("F16", (2, 4), [0, 3], half(1, 2))}
    stored = {"add:w": on("F64", (2, 4), [0, 3], struct.pack("<2d", 2**-11 + 2**-40, 1.0))}
    target, described = files_deltas.step(near, stored)
    add_delta(area, "add-twice-rounded", "FMT-135", near, {"1": _file(stored, described)}, target)
    for name, clauses, chain, target, more in ends:
        add_delta(area, name, clauses, BASE, chain, target, **more)
    full = {"w": on("U8", (2, 2), [0, 3])}
    stored = {"replace:w": on("U8", (2, 2), [1, 2])}
    target, described = files_deltas.step(full, stored)
    add_delta(area, "fills-up", "FMT-134 FMT-005", full, {"1": _file(stored, described)}, target)
    whole = {"w": on("F32", (2, 2), [0, 3], struct.pack("<2f", 1, 2))}
    for operation, clause in (("add", "FMT-135"), ("replace", "FMT-134")):
        stored = {f"{operation}:w": Tensor("F32", (2, 2), struct.pack("<4f", 5, 6, 7, 8))}
        target, described = files_deltas.step(whole, stored)
        add_delta(area, f"{operation}-everywhere", f"FMT-005 {clause}", whole, {"1": _file(stored, described)}, target)
    _refusals(area, first, second)
    return area


def _file(stored: dict[str, Tensor], described: dict[str, Any]) -> Pieces:
    return files.pieces(stored, kind="delta", delta=described)


def add_delta(
    area: Area,
    name: str,
    clauses: str,
    base: dict[str, Tensor],
    chain: dict[str, Pieces],
    target: dict[str, Tensor],
    purpose: str = "values or supports that do not arrive",
    **more: Any,
) -> None:
    """Add a chain of deltas that leads from base to target."""
    checkpoint = content(target, **more)
    expected = {key: checkpoint[key] for key in ("tensors", "tied", "scales")}
    expected |= {"state": files_deltas.model(target, **more)[1]}
    area.add(name, "delta.apply", f"{clauses} FMT-137 FMT-138", purpose, _given(base, chain), expected)


def _given(base: dict[str, Tensor], chain: dict[str, Pieces]) -> dict[str, Any]:
    raw = {name: raw_array(delta.pack()) for name, delta in chain.items()}
    return {"base": raw_array(files.pieces(base).pack()), "deltas": raw}


def _refusals(area: Area, first: dict[str, Any], second: dict[str, Any]) -> None:
    one, two = _file(FIRST, first), _file(SECOND, second)

    def refuse(name: str, clause: str, base: dict[str, Tensor], chain: dict[str, Pieces]) -> None:
        purpose = "it is applied all the same"
        area.add(f"refuse-{name}", "delta.apply", clause.split()[0], purpose, _given(base, chain), refused=clause)

    refuse("wrong-order", "FMT-137", BASE, {"1": two, "2": one})
    refuse("gap", "FMT-139", BASE, {"1": one, "2": one})
    refuse("another-base", "FMT-137", {**BASE, "gone": F16}, {"1": one})
    refuse("more-base", "FMT-137", {**BASE, "zz": F16}, {"1": one})
    listed = copy.deepcopy(first)
    changed = next(name for name, digests in listed["tensors"].items() if None not in digests.values())
    listed["tensors"][changed]["base"] = "0" * 64
    refuse("listed-base", "FMT-137", BASE, {"1": _file(FIRST, listed)})
    refuse("no-delta", "FMT-131", BASE, {"1": files.pieces(BASE)})
    refuse("target", "FMT-138", BASE, {"1": _file(FIRST, first | {"target_sha256": "0" * 64})})
    spoiled = _file({**FIRST, "replace:d": on("F32", (2, 2), [1])}, first)
    refuse("result", "FMT-138", BASE, {"1": spoiled})
    # a reader refuses the chain although its second delta removes the tensor that the first one gets wrong
    reached, _ = files_deltas.step(BASE, FIRST, ("gone",), **{key: first[key] for key in ("tied", "scales")})
    links = {"before": {key: first[key] for key in ("tied", "scales")}, "tied": {}, "scales": {}}
    _, without = files_deltas.step(reached, {}, ("d",), **links)
    refuse("result-that-goes", "FMT-138", BASE, {"1": spoiled, "2": _file({}, without)})
    whole_only = {"whole:w": F16}
    as_base = files.pieces(whole_only, kind="delta", delta=files_deltas.step({}, whole_only)[1])
    inputs = {"base": raw_array(as_base.pack()), "deltas": {}}
    text = "a delta taken for a model of tensors such as whole:w"
    area.add("refuse-delta-as-base", "delta.apply", "FMT-131", text, inputs, refused="FMT-131")
    misfits = {
        "shape": {"replace:s": on("F16", (9,), [1, 6])},
        "shape-of-rank-2": {"replace:s": on("F16", (1, 9), [1, 6])},
        "dtype": {"replace:s": on("BF16", (3, 3), [1, 6])},
        "mask": {"replace:s": on("NONE", (3, 3), [1, 6])},
        "values": {"remove:s": on("F16", (3, 3), [4])},
        "absent": {"remove:s": on("NONE", (3, 3), [5])},
        "twice": {"remove:s": on("NONE", (3, 3), [6])},
    }
    for name, change in misfits.items():
        refuse(f"misfit-{name}", "FMT-133", BASE, {"1": _file({**FIRST, **change}, first)})
    masked = {"m": on("NONE", (3, 3), [1, 4, 5])}
    _, described = files_deltas.step(masked, {"whole:m": on("NONE", (3, 3), [1, 5])})
    refuse("mask", "FMT-133", masked, {"1": _file({"remove:m": on("NONE", (3, 3), [4])}, described)})
    sums = copy.deepcopy(second)
    huge = {"add:s": on("F64", (3, 3), [0], struct.pack("<d", 1e300))}
    refuse("infinite", "FMT-135", BASE, {"1": one, "2": _file(huge, sums)})
    small = {"w": Tensor("F16", (2,), half(1, 2))}
    _, described = files_deltas.step(small, {"add:w": on("F32", (2,), [0], struct.pack("<f", 1))})
    beyond = {"add:w": on("F32", (2,), [0], struct.pack("<f", 140_000.0))}
    refuse("f16-131072", "FMT-135", small, {"1": _file(beyond, described)})
    no_number = {"add:s": on("F64", (3, 3), [0], struct.pack("<d", math.nan))}
    refuse("nan", "FMT-135", BASE, {"1": one, "2": _file(no_number, sums)})
    whole = {"w": on("I32", (2, 2), [0, 3])}
    _, described = files_deltas.step(whole, {"replace:w": on("I32", (2, 2), [1])})
    refuse("integers", "FMT-133", whole, {"1": _file({"add:w": on("F32", (2, 2), [1])}, described)})
    integers = {"add:s": on("I32", (3, 3), [0, 5, 6])}
    refuse("amounts", "FMT-133", BASE, {"1": one, "2": _file(integers, sums)})
    for name, clause, links in (
        ("tied-to-nothing", "FMT-010", {"tied": {"t": "gone"}}),
        ("tied-and-stored", "FMT-010", {"tied": {"new": "d"}}),
        ("scale-of-nothing", "FMT-016", {"scales": {"gone": {"scale": "d"}}}),
        ("nothing-as-scale", "FMT-016", {"scales": {"s": {"zero_point": "gone"}}}),
    ):
        broken, described = files_deltas.step(BASE, FIRST, ("gone",), **links)
        refuse(name, clause, BASE, {"1": _file(FIRST, described)})
        _, mended = files_deltas.step(broken, SECOND, before=links)
        refuse(f"{name}-on-the-way", clause, BASE, {"1": _file(FIRST, described), "2": _file(SECOND, mended)})


AREAS = (applied,)
