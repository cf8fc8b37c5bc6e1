"""Cases of chapter 3: products with a sparse matrix, and values stored into it."""

import math
from typing import Any

import numpy as np

from conformance.cases.case import Bound
from conformance.cases.compare import tau
from conformance.gen.numbers import Area, Array, Numbers, ids, reals
from conformance.oracle import kernels
from conformance.oracle.kernels import Sums

_TERMS = 600


def bound_of(sums: Sums, *, exact: bool) -> Bound:
    """Return a bound of τ(K) times the gauge for each entry, where K is the entry's own number of terms.

    A `Bound` has one number of terms for all entries. It is 0 here, and the gauge is scaled by τ(K) / τ(0) instead.
    """
    part = np.array([tau(int(k)) / tau(0) for k in sums.terms.reshape(-1)]).reshape(sums.terms.shape)
    return Bound(sums.gauge * part * (not exact), 0)


def _at(shape: tuple[int, int], positions: list[int], values: Array) -> dict[tuple[int, int], float]:
    return {divmod(p, shape[1]): float(v) for p, v in zip(positions, values, strict=True)}


def _products(
    area: Area,
    name: str,
    purpose: str,
    shape: tuple[int, int],
    at: list[int],
    n: int,
    numbers: Any,
    more: str = "",
) -> None:
    exact = numbers.__name__ == "lattice"
    values, x, dy = numbers(len(at)), numbers((n, shape[1])), numbers((n, shape[0]))
    if len(values) > 3:
        values[3] = 0.0
    w = _at(shape, at, values)
    sums = {
        "y": kernels.matmul(w, shape, x),
        "dx": kernels.matmul_transposed(w, shape, dy),
        "dvalues": kernels.sample(w, dy, x),
    }
    inputs = {"out": shape[0], "in": shape[1], "positions": ids(at), "values": values, "x": x, "dy": dy}
    answer = {k: s.value for k, s in sums.items()} | {"shape": ids(shape)}
    bounds = {k: bound_of(s, exact=exact) for k, s in sums.items()}
    clauses = f"KRN-001 KRN-002 KRN-003 KRN-004 KRN-005 KRN-011 {'KRN-007 NUM-003' if exact else 'KRN-006 NUM-002'}"
    area.add(name, "kernel.sparse", clauses + more, purpose, inputs, answer, bounds=bounds)


def products_of(
    shape: tuple[int, int], at: list[int], values: Array, x: Array, dy: Array
) -> tuple[dict[str, Array], dict[str, Bound]]:
    """Return the outputs of `kernel.sparse`, and their bounds."""
    w = _at(shape, at, values)
    products = {
        "y": kernels.matmul(w, shape, x),
        "dx": kernels.matmul_transposed(w, shape, dy),
        "dvalues": kernels.sample(w, dy, x),
    }
    bounds = {key: bound_of(sums, exact=False) for key, sums in products.items()}
    return {key: sums.value for key, sums in products.items()} | {"shape": ids(shape)}, bounds


def products() -> Area:
    """Return cases of products and stores (KRN-001 to KRN-013)."""
    area = Area("kernel", "sums of single products by fsum")
    n = Numbers(70, 1)
    scattered = n.subset(9 * 13, 40)
    holes = [p for p in scattered if p // 13 not in (0, 4, 8) and p % 13 not in (0, 12)]
    one_row = [3 * 13 + c for c in range(13)]
    for name, purpose, shape, at, tokens, numbers in (
        ("lattice", "the last entry of a row lost, a column off by one", (9, 13), scattered, 5, n.lattice),
        ("real", "low-precision products or sums", (9, 13), scattered, 4, n.real),
        ("empty-rows-columns", "results that nobody wrote where nothing is stored", (9, 13), holes, 3, n.lattice),
        ("one-row", "a single dense row", (9, 13), one_row, 3, n.lattice),
        ("nothing-stored", "no stored position", (4, 6), [], 3, n.lattice),
        ("no-tokens", "n = 0", (4, 6), [1, 8, 23], 0, n.lattice),
        ("no-rows", "a matrix without rows", (0, 6), [], 2, n.lattice),
        ("no-columns", "a matrix without columns", (4, 0), [], 2, n.lattice),
        ("one", "a single position", (1, 1), [0], 1, n.real),
        ("full", "every position stored", (5, 4), list(range(20)), 3, n.real),
        ("tall", "blocks of rows and tokens: the remainders", (37, 19), n.subset(37 * 19, 150), 17, n.lattice),
    ):
        _products(area, name, purpose, shape, at, tokens, numbers)
    _large(area)
    _dense(area, n)
    _stores(area, n)
    _refusals(area, n)
    _patterns(area)
    _sums(area)
    _rounded(area)
    _alone(area)
    return area


def _patterns(area: Area) -> None:
    """Add products with at most N of every M columns, because a port may multiply group by group (TOP-005)."""
    n = Numbers(70, 3)
    for kept, of, shape, tokens, name, numbers in (
        (2, 4, (5, 12), 3, "", n.lattice),
        (2, 4, (6, 8), 4, "-fewer", n.lattice),
        (2, 4, (3, 8), 0, "-no-tokens", n.lattice),
        (2, 4, (4, 16), 2, "-real", n.real),
        (1, 4, (3, 8), 1, "", n.lattice),
        (1, 4, (4, 12), 2, "-fewer", n.lattice),
        (4, 8, (4, 16), 5, "", n.lattice),
        (4, 8, (3, 24), 2, "-fewer", n.lattice),
        (3, 5, (3, 10), 2, "", n.lattice),
        (3, 5, (4, 15), 3, "-fewer", n.lattice),
    ):
        at: list[int] = []
        for first in range(0, shape[0] * shape[1], of):
            # groups of `-fewer` store up to N values, but those of the first row store none
            some = n.integer(0, kept) if first >= shape[1] else 0
            at += [first + column for column in n.subset(of, some if name == "-fewer" else kept)]
        text = "columns of a group in another order, or a group that stores fewer read as a full one"
        _products(area, f"pattern-{kept}-{of}{name}", text, shape, at, tokens, numbers, " TOP-005")


def _sums(area: Area) -> None:
    """Add sums of 600 terms that are exact in 16-bit types, while their partial sums are not (PRT-011)."""
    n, exact = Numbers(70, 4), Bound(np.zeros(()), 0)
    one, many = n.lattice((1, 1), 31), n.balanced(_TERMS)
    line, column = many[0].reshape(1, -1), many[1].reshape(-1, 1)
    purpose = "a sum kept in sixteen bits while it grows"
    clauses = "KRN-007 NUM-003 PRT-011"
    for name, op, clause, w, x, dy in (
        ("sums-row", "kernel.sparse", "KRN-001", line, column.T, one),
        ("sums-column", "kernel.sparse", "KRN-002", column, one, line),
        ("sums-tokens", "kernel.sparse", "KRN-003", one, line.T, column),
        ("dense-sums-row", "kernel.dense", "KRN-001", line, column.T, one),
        ("dense-sums-column", "kernel.dense", "KRN-002", column, one, line),
    ):
        inputs: dict[str, Any] = {"x": x, "dy": dy}
        stored = _at(w.shape, list(range(w.size)), w.reshape(-1))
        y, dx = kernels.matmul(stored, w.shape, x), kernels.matmul_transposed(stored, w.shape, dy)
        answer = {"y": y.value, "dx": dx.value, "shape": ids(w.shape)}
        if op == "kernel.sparse":
            inputs |= {"out": w.shape[0], "in": w.shape[1], "positions": ids(range(w.size)), "values": w.reshape(-1)}
            answer["dvalues"] = kernels.sample(stored, dy, x).value
        else:
            inputs["weight"] = w
        bounds = {key: exact for key in answer if key != "shape"}
        area.add(name, op, f"{clause} {clauses}", purpose, inputs, answer, bounds=bounds)


# Each value is (a, weights, inputs). a · a is 0.78 or 0.88 of a last place above a number of the 16-bit type, and the
# sums need rounding too. The products of `subnormal` are subnormal in binary16, whose smallest number is 2^-24.
ROUNDED: dict[str, tuple[float, list[float], list[float]]] = {
    "bfloat16": (138 / 128, [16.0, 1.0, 0.5], [16.0, 1.5, 0.5]),
    "float16": (1054 / 1024, [16.0, 1.0, 0.5], [128.0, 1.5, 0.5]),
    "subnormal": (2.0**-9, [2.0**-10, 2.0**-11, 2.0**-12], [2.0**-9, 2.0**-10, 2.0**-24]),
}


def _rounded(area: Area) -> None:
    """Add products and sums that are rounded once to the nearest number of a 16-bit type (PRT-011)."""
    purpose = "a result cut to sixteen bits, rounded towards one side, or flushed to zero"
    for name, (a, w, x) in ROUNDED.items():
        weight, rows = reals([a, *w, -a, *(-v for v in w)]).reshape(2, 4), reals([a, *x, -a, *x]).reshape(2, 4)
        dy = reals([a, 1.0, 1.0, -a]).reshape(2, 2)
        for op in ("kernel.sparse", "kernel.dense"):
            stored = _at((2, 4), list(range(8)), weight.reshape(-1))
            sums = {"y": kernels.matmul(stored, (2, 4), rows), "dx": kernels.matmul_transposed(stored, (2, 4), dy)}
            inputs: dict[str, Any] = {"x": rows, "dy": dy}
            if op == "kernel.sparse":
                inputs |= {"out": 2, "in": 4, "positions": ids(range(8)), "values": weight.reshape(-1)}
                sums["dvalues"] = kernels.sample(stored, dy, rows)
            else:
                inputs["weight"] = weight
            answer = {key: s.value for key, s in sums.items()} | {"shape": ids((2, 4))}
            bounds = {key: bound_of(s, exact=False) for key, s in sums.items()}
            clauses = "KRN-001 KRN-002 KRN-003 KRN-006 NUM-002 PRT-011"
            kind = op.split(".")[1]
            area.add(f"rounded-{kind}-{name}", op, clauses, purpose, inputs, answer, bounds=bounds)


def _large(area: Area) -> None:
    """Add products of 11-bit integers: binary32 stores them exactly, 16-bit types do not."""
    n = Numbers(70, 2)

    def lattice(shape: int | tuple[int, ...]) -> Array:
        return n.lattice(shape, 1500)

    at = n.subset(7 * 5, 22)
    _products(area, "lattice-large", "operands or sums in sixteen bits", (7, 5), at, 3, lattice)


def _dense(area: Area, n: Numbers) -> None:
    for name, draw, shape, tokens in (
        ("dense-lattice", n.lattice, (6, 5), 4),
        ("dense-real", n.real, (3, 11), 2),
        ("dense-no-tokens", n.lattice, (3, 2), 0),
        ("dense-no-columns", n.lattice, (3, 0), 2),
    ):
        weight, x, dy = draw(shape), draw((tokens, shape[1])), draw((tokens, shape[0]))
        w = _at(shape, list(range(weight.size)), weight.reshape(-1))
        y, dx = kernels.matmul(w, shape, x), kernels.matmul_transposed(w, shape, dy)
        exact = draw.__name__ == "lattice"
        answer = {"y": y.value, "dx": dx.value, "shape": ids(shape)}
        bounds = {"y": bound_of(y, exact=exact), "dx": bound_of(dx, exact=exact)}
        clauses = f"KRN-001 KRN-002 KRN-005 KRN-011 {'KRN-007' if exact else 'KRN-006'}"
        inputs = {"weight": weight, "x": x, "dy": dy}
        area.add(name, "kernel.dense", clauses, "a transposed product", inputs, answer, bounds=bounds)


def _stores(area: Area, n: Numbers) -> None:
    at = n.subset(63, 30)
    values, eye = n.lattice(30), np.eye(9)
    for name, slots in (
        ("some", n.subset(30, 11)),
        ("none", []),
        ("all", list(range(30))),
        ("backwards", [29, 17, 4, 0]),
    ):
        new = n.lattice(len(slots))
        after = values.copy()
        after[slots] = new
        dense = np.zeros(63)
        dense[at] = after
        inputs = {"out": 7, "in": 9, "positions": ids(at), "values": values, "slots": ids(slots), "new": new, "x": eye}
        text = "a value stored at a neighbour, in another order, or into the array that was given"
        clauses = "KRN-012 KRN-011 KRN-004"
        area.add(f"store-{name}", "kernel.store", clauses, text, inputs, {"y": dense.reshape(7, 9).T.copy()})
        weight = n.lattice((7, 9))
        dense = weight.reshape(-1).copy()
        dense[[at[s] for s in slots]] = new
        inputs = {"out": 7, "in": 9, "weight": weight, "positions": ids(at), "slots": ids(slots), "new": new, "x": eye}
        answer = {"y": dense.reshape(7, 9).T.copy()}
        area.add(f"store-dense-{name}", "kernel.store_dense", "KRN-012 KRN-011", text, inputs, answer)
    base = {"out": 7, "in": 9, "positions": ids(at), "values": values, "x": eye}
    for name, slots, clause in (("high", [30], "KRN-012"), ("negative", [-1], "KRN-012")):
        inputs = base | {"slots": ids(slots), "new": np.ones(1)}
        clauses = f"{clause} KRN-013"
        area.add(f"refuse-slot-{name}", "kernel.store", clauses, "an index that wraps around", inputs, refused=clause)
    inputs = base | {"slots": ids([1, 2]), "new": np.ones(3)}
    area.add(
        "refuse-store-length", "kernel.store", "KRN-009 KRN-013", "values cut to fit", inputs, refused="KRN-009 KRN-012"
    )


def _refusals(area: Area, n: Numbers) -> None:
    shape, at = (4, 5), [0, 7, 13, 19]
    right: dict[str, Any] = {
        "out": 4,
        "in": 5,
        "positions": ids(at),
        "values": n.lattice(4),
        "x": n.lattice((3, 5)),
        "dy": n.lattice((3, 4)),
    }
    for name, change in (
        ("x-width", {"x": n.lattice((3, 4))}),
        ("dy-width", {"dy": n.lattice((3, 5))}),
        ("x-vector", {"x": n.lattice(5)}),
        ("x-three-axes", {"x": n.lattice((1, 3, 5))}),
        ("values-length", {"values": n.lattice(3)}),
        ("values-one", {"values": n.lattice(1)}),
        ("rows-differ", {"dy": n.lattice((2, 4))}),
        ("one-row", {"dy": n.lattice((1, 4))}),
    ):
        text = "arrays broadcast or cut to fit"
        area.add(f"refuse-{name}", "kernel.sparse", "KRN-009 KRN-013", text, right | change, refused="KRN-009")
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("x-dtype", {"x": "other"}),
        ("dy-dtype", {"dy": "other"}),
        ("values-dtype", {"values": "other"}),
        ("integers", {"x": "int64", "dy": "int64", "values": "int64"}),
        ("integer-x", {"x": "int64"}),
    )
    for name, odd in kinds:
        text = "operands cast in silence"
        area.add(f"refuse-{name}", "kernel.sparse", "KRN-010 KRN-013", text, right | {"odd": odd}, refused="KRN-010")
    weight = n.lattice(shape)
    inputs: dict[str, Any] = {"weight": weight, "x": n.lattice((3, 4)), "dy": n.lattice((3, 4))}
    area.add("refuse-dense-width", "kernel.dense", "KRN-009", "a transposed operand taken", inputs, refused="KRN-009")
    inputs = inputs | {"x": n.lattice((3, 5)), "odd": {"weight": "int64"}}
    area.add("refuse-dense-integers", "kernel.dense", "KRN-010", "integers taken", inputs, refused="KRN-010")


def _alone(area: Area) -> None:
    """Add refusals with one wrong operand each (KRN-009, KRN-010, KRN-012)."""
    n = Numbers(70, 4)
    sparse: dict[str, Any] = {"out": 4, "in": 5, "positions": ids([0, 7, 13, 19]), "values": n.lattice(4)}
    sparse |= {"x": n.lattice((3, 5)), "dy": n.lattice((3, 4))}
    for name, change in (
        ("dy-vector", {"dy": n.lattice(4)}),
        ("values-long", {"values": n.lattice(5)}),
        ("values-matrix", {"values": n.lattice((1, 4))}),
    ):
        area.add(f"refuse-{name}", "kernel.sparse", "KRN-009 KRN-013", _FIT, sparse | change, refused="KRN-009")
    dense: dict[str, Any] = {"weight": n.lattice((4, 5)), "x": sparse["x"], "dy": sparse["dy"]}
    for name, change in (
        ("dy-width", {"dy": n.lattice((3, 5))}),
        ("x-vector", {"x": n.lattice(5)}),
        ("dy-vector", {"dy": n.lattice(4)}),
    ):
        area.add(f"refuse-dense-{name}", "kernel.dense", "KRN-009", _FIT, dense | change, refused="KRN-009")
    for name in ("x", "dy", "weight"):
        inputs = dense | {"odd": {name: "other"}}
        text = "operands cast in silence"
        area.add(f"refuse-dense-{name}-dtype", "kernel.dense", "KRN-010", text, inputs, refused="KRN-010")
    store = {
        "out": 4,
        "in": 5,
        "positions": sparse["positions"],
        "x": np.eye(5),
        "slots": ids([1, 2]),
        "new": np.ones(2),
    }
    weight = n.lattice((4, 5))
    for op, base in (
        ("store", store | {"values": sparse["values"]}),
        ("store-dense", store | {"weight": weight}),
    ):
        rows: tuple[tuple[str, dict[str, Any], str, str], ...] = (
            ("fewer", {"new": np.ones(1)}, "KRN-009", "one value for all slots"),
            ("more", {"new": np.ones(3)}, "KRN-009", "values cut to fit"),
            ("high", {"slots": ids([1, 4])}, "KRN-012", "a slot behind the last"),
            ("negative", {"slots": ids([-1, 1])}, "KRN-012", "a slot that counts from the end"),
        )
        if op == "store-dense":
            rows += (("shape", {"weight": n.lattice((5, 4))}, "KRN-009", "positions of a matrix of another shape"),)
        for name, change, clause, text in rows:
            refused = "KRN-009 KRN-012" if clause == "KRN-009" else clause
            kernel = f"kernel.{op.replace('-', '_')}"
            area.add(f"refuse-{op}-{name}-alone", kernel, f"{clause} KRN-013", text, base | change, refused=refused)


_FIT = "arrays broadcast or cut to fit"


def exceeding() -> Area:
    """Return cases of entries that exceed a number (KRN-014)."""
    area = Area("exceeding", "a loop")
    n = Numbers(70, 90)
    special = [0.0, -0.0, 2.0, -2.0, math.nan, math.inf, -math.inf, 2.5, -2.5]
    for name, values, least, purpose in (
        ("special", special, 2.0, "an entry equal to least, NaN left out, the sign counted"),
        ("zero", special, 0.0, "either zero above 0"),
        ("long", n.lattice(1101, 3), 2.5, "remainders of blocks"),
        ("all", n.lattice(70, 3), -1.0, "an entry left out"),
        ("none", n.lattice(70, 3), 3.0, "an entry equal to least"),
        ("empty", [], 0.0, "no entries"),
    ):
        indices = [i for i, x in enumerate(values) if not abs(x) <= least]
        inputs = {"values": reals(values), "least": least}
        area.add(name, "kernel.exceeding", "KRN-014", purpose, inputs, {"indices": ids(indices)})
    inputs = {"values": n.lattice((2, 3)), "least": 1.0}
    area.add("refuse-matrix", "kernel.exceeding", "KRN-009", "a matrix taken", inputs, refused="KRN-009")
    return area


AREAS = (products, exceeding)
