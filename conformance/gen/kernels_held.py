"""Cases of chapter 3 for other representations of a matrix, which must not change a result."""

from typing import Any

import numpy as np

from conformance.gen.kernels import products_of
from conformance.gen.numbers import Area, Array, Numbers, ids


def held() -> Area:
    """Return cases of other representations of a matrix, and of patterns (KRN-015, KRN-016, KRN-018, TOP-005)."""
    area = Area("held", "sums of single products by fsum")
    n = Numbers(122, 1)
    shape = (5, 8)
    at = n.subset(40, 22)
    low = n.integers(22, -7, 7) * 2.0**-24
    for name, kind, values, x, purpose in (
        ("float16", "float16", n.lattice(22, 1500), n.lattice((3, 8)), "numbers cut to fewer than 11 bits"),
        ("float16-subnormal", "float16", low, n.lattice((3, 8)) * 2.0**12, "subnormal numbers flushed to zero"),
        ("bfloat16-range", "bfloat16", n.lattice(22, 255) * 2.0**-100, n.real((3, 8)), "the range of float16"),
    ):
        _product(area, name, "KRN-015", purpose, shape, at, values, x, n, {"held": kind})
    live = n.subset(22, 7)
    for name, kind, chosen, purpose in (
        ("split", "float16", live, "live values rounded to sixteen bits, or added to what they replace"),
        ("split-all", "float16", list(range(22)), "a frozen part of zeros alone"),
        ("split-none", "bfloat16", [], "a live part that stores nothing"),
    ):
        values = n.lattice(22, 100) / 8
        values[chosen] = n.real(len(chosen))
        more = {"held": kind, "live": ids(chosen)}
        _product(area, name, "KRN-015 KRN-016", purpose, shape, at, values, n.real((3, 8)), n, more)
    for name, kind, slots in (("some", "float16", live[1::2]), ("all", "bfloat16", live), ("none", "float16", [])):
        values, new = n.lattice(22, 100) / 8, n.lattice(len(slots), 100) / 32
        after, dense = values.copy(), np.zeros(40)
        after[slots] = new
        dense[at] = after
        inputs = {"out": 5, "in": 8, "positions": ids(at), "values": values, "slots": ids(slots), "new": new}
        inputs |= {"x": np.eye(8), "held": kind, "live": ids(live)}
        purpose = "a live value stored into the frozen part, or added to what is there"
        clauses, answer = "KRN-012 KRN-016 KRN-011", {"y": dense.reshape(5, 8).T.copy()}
        area.add(f"store-{name}", "kernel.store", clauses, purpose, inputs, answer)
    own = Numbers(122, 3)
    for kind in ("float16", "bfloat16"):
        values, slots, new = own.lattice(22, 100) / 8, own.subset(22, 9), own.lattice(9, 100) / 32
        after, dense = values.copy(), np.zeros(40)
        after[slots] = new
        dense[at] = after
        inputs = {"out": 5, "in": 8, "positions": ids(at), "values": values, "slots": ids(slots), "new": new}
        purpose = "a value stored with other bits than those of its number, or into the place of another column"
        answer = {"y": dense.reshape(5, 8).T.copy()}
        inputs |= {"x": np.eye(8), "held": kind}
        area.add(f"store-compact-{kind}", "kernel.store", "KRN-015 KRN-012", purpose, inputs, answer)
    _patterns(area, n)
    _coded(area, Numbers(122, 2))
    return area


def _coded(area: Area, n: Numbers) -> None:
    """Add matrices whose values lie on a grid: each group stores its least and its largest code (KRN-018)."""
    for grid, size, low, high, purpose in (
        ("int8", 32, -127, 127, "codes multiplied in place of weights, or by the scale of another row"),
        ("int4:g16", 16, -7, 7, "codes decoded by the scale of another group"),
        ("int4:g16:asym", 16, -8, 7, "codes decoded by the zero point of another group, or without one"),
        ("int8:asym", 32, -128, 127, "a live part beside codes; a zero that is a code of 0 and not the zero point"),
    ):
        at: list[int] = []
        values: list[float] = []
        for first in range(0, 5 * 32, size):
            chosen = n.subset(size, size // 3)
            codes = [low, high, *(n.integer(low, high) for _ in chosen[2:])]
            zero = n.integer(low + 1, high - 1) if "asym" in grid else 0
            step = 2.0 ** n.integer(-5, 0)
            at += [first + c for c in chosen]
            values += [(code - zero) * step for code in codes]
        more: dict[str, Any] = {"held": grid}
        if grid == "int8:asym":
            more["live"] = ids(n.subset(len(at), 9))
        clauses = "KRN-018 KRN-015" + (" KRN-016" if "live" in more else "")
        _product(
            area,
            f"codes-{grid.replace(':', '-')}",
            clauses,
            purpose,
            (5, 32),
            at,
            np.array(values),
            n.real((3, 32)),
            n,
            more,
        )


def _product(
    area: Area,
    name: str,
    clauses: str,
    purpose: str,
    shape: tuple[int, int],
    at: list[int],
    values: Array,
    x: Array,
    n: Numbers,
    more: dict[str, Any],
) -> None:
    dy = n.real((len(x), shape[0]))
    answer, bounds = products_of(shape, at, values, x, dy)
    inputs = {"out": shape[0], "in": shape[1], "positions": ids(at), "values": values, "x": x, "dy": dy} | more
    clauses = f"{clauses} KRN-001 KRN-002 KRN-003 KRN-006"
    area.add(name, "kernel.sparse", clauses, purpose, inputs, answer, bounds=bounds)


def _patterns(area: Area, n: Numbers) -> None:
    """Add groups of 2 to 65 columns, around the widths of the bit masks that may hold them (TOP-005)."""
    for kept, of in ((1, 2), (4, 8), (3, 9), (5, 16), (2, 17), (9, 32), (4, 33), (8, 62), (3, 63), (5, 64), (2, 65)):
        at: list[int] = []
        for group in range(4):
            # the first group stores nothing, and the last stores its first and last column
            columns = [] if group == 0 else n.subset(of, kept) if group < 3 else sorted({0, of - 1})[-kept:]
            at += [group * of + column for column in columns]
        indptr = [0, sum(p < 2 * of for p in at), len(at)]
        inputs = {"out": 2, "in": 2 * of, "positions": ids(at), "pattern": ids([kept, of])}
        answer = {"indptr": ids(indptr), "indices": ids(p % (2 * of) for p in at)}
        purpose = "a group wider than its mask: its last columns lost, negative, or refused"
        area.add(f"groups-{kept}-{of}", "topology.of", "TOP-005 TOP-001 TOP-002", purpose, inputs, answer)
    for name, pattern, width, stored, purpose in (
        ("full", (2, 4), 8, [0, 2, 5, 6, 7], "a group that stores more than N is taken"),
        ("full-behind", (2, 4), 8, [9, 10, 11], "groups of the first row alone are counted"),
        ("wide-full", (2, 65), 65, [0, 1, 64, 70], "a group wider than a mask that stores more than N is taken"),
        ("odd", (2, 4), 6, [0, 4], "rows that M does not divide are taken"),
        ("narrow", (2, 4), 2, [0, 1], "rows shorter than a group are taken"),
        ("wide-odd", (2, 65), 66, [0, 65], "rows that a wide M does not divide are taken"),
    ):
        inputs = {"out": 2, "in": width, "positions": ids(stored), "pattern": ids(pattern)}
        area.add(f"refuse-group-{name}", "topology.of", "TOP-005", purpose, inputs, refused="TOP-005")


AREAS = (held,)
