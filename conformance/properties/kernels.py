"""Properties of products (chapter 3)."""

from typing import Any

import numpy as np

from conformance.answers.answer import ids, reals
from conformance.properties.draws import Array, Draw, Shape
from conformance.properties.trial import Trial, property_of

_STORED = ("an empty row", "an empty column", "a stored zero", "nothing stored", "no tokens")


def _matrix(d: Draw, t: Trial, *, exact: bool) -> tuple[Shape, list[int], Array, Array, Array]:
    """Return shape, positions, values, x and dy of a product."""
    shape = d.shape(none=True)
    at, _ = d.mask(shape)
    tokens = d.choice((1, 2, 3, 5, 0))
    numbers = d.lattice if exact else d.real
    values, x, dy = numbers((len(at),)), numbers((tokens, shape[1])), numbers((tokens, shape[0]))
    t.saw("an empty row", at and len({p // shape[1] for p in at}) < shape[0])
    t.saw("an empty column", at and len({p % shape[1] for p in at}) < shape[1])
    t.saw("a stored zero", not values.all())
    t.saw("nothing stored", not at)
    t.saw("no tokens", tokens == 0)
    return shape, at, values, x, dy


def _given(shape: Shape, at: list[int], values: Array, x: Array, dy: Array) -> dict[str, Any]:
    return {"out": shape[0], "in": shape[1], "positions": ids(at), "values": values, "x": x, "dy": dy}


@property_of(
    "kernel.sparse",
    "KRN-001 KRN-002 KRN-003 KRN-004 KRN-005 KRN-006 KRN-007",
    "core",
    "kernel.sparse",
    sees=_STORED,
    reduced=True,
)
def _sparse(d: Draw, t: Trial) -> None:
    """Products are sums over the stored positions, exact on integers and within their bounds elsewhere."""
    exact = not d.flag()
    shape, at, values, x, dy = _matrix(d, t, exact=exact)
    t.case("kernel.sparse", _given(shape, at, values, x, dy))


@property_of(
    "kernel.rows-moved",
    "KRN-001 KRN-002 KRN-007",
    "core",
    "kernel.sparse",
    sees=("rows in another order", "an empty row"),
)
def _rows_moved(d: Draw, t: Trial) -> None:
    """Rows of W in another order give the columns of y in that order, and the same dx."""
    shape, at, values, x, dy = _matrix(d, t, exact=True)
    order = d.order(shape[0])
    t.saw("rows in another order", at and order != sorted(order))
    to = {old: new for new, old in enumerate(order)}
    entries = sorted((to[p // shape[1]] * shape[1] + p % shape[1], float(v)) for p, v in zip(at, values, strict=True))
    other = _given(shape, [p for p, _ in entries], reals(v for _, v in entries), x, np.ascontiguousarray(dy[:, order]))
    first = _given(shape, at, values, x, dy)
    t.related("rows of a product moved", ("kernel.sparse", first), ("kernel.sparse", other | {"order": ids(order)}))


@property_of(
    "kernel.padded",
    "KRN-001 KRN-003 KRN-005 KRN-007",
    "core",
    "kernel.sparse",
    sees=("a stored zero", "several weights"),
)
def _padded(d: Draw, t: Trial) -> None:
    """One more column, without weights and with zeros in x, changes nothing."""
    shape, at, values, x, dy = _matrix(d, t, exact=True)
    t.saw("several weights", len(at) > 3)
    cols = shape[1]
    wide = [p // cols * (cols + 1) + p % cols for p in at]
    more = np.concatenate([x, np.zeros((len(x), 1))], axis=1)
    first = ("kernel.sparse", _given(shape, at, values, x, dy))
    t.related("padded", first, ("kernel.sparse", _given((shape[0], cols + 1), wide, values, more, dy)))


@property_of("kernel.scaled", "KRN-002 KRN-003 KRN-007", "core", "kernel.sparse", sees=("several weights",))
def _scaled(d: Draw, t: Trial) -> None:
    """Scaling the loss by a power of two scales both gradients exactly."""
    shape, at, values, x, dy = _matrix(d, t, exact=True)
    t.saw("several weights", len(at) > 3 and dy.any())
    inputs = _given(shape, at, values, x, dy)
    t.related("scaled", ("kernel.sparse", inputs), ("kernel.sparse", inputs | {"dy": dy * 2.0 ** d.choice((1, 5, 9))}))


@property_of(
    "kernel.store",
    "KRN-012 KRN-011 KRN-004",
    "core",
    "kernel.store",
    sees=("slots out of order", "an impossible slot"),
    reduced=True,
)
def _store(d: Draw, t: Trial) -> None:
    """Values stored at slots are at their positions, and no other value changes."""
    _stores(d, t, "kernel.store")


def _stores(d: Draw, t: Trial, op: str) -> None:
    shape = d.shape()
    at, _ = d.mask(shape)
    old = {"values": d.lattice((len(at),))} if op == "kernel.store" else {"weight": d.lattice(shape)}
    slots = d.some(d.order(len(at)), d.integer(0, len(at)))
    inputs: dict[str, Any] = {"out": shape[0], "in": shape[1], "positions": ids(at), "x": np.eye(shape[1])} | old
    inputs |= {"new": d.lattice((len(slots),))}
    if slots and d.flag(5):
        slots[0] = d.choice((-1, len(at)))
        t.saw("an impossible slot")
    t.saw("slots out of order", slots != sorted(slots))
    t.case(op, inputs | {"slots": ids(slots)})


@property_of(
    "kernel.store-dense",
    "KRN-012 KRN-011",
    "kernels",
    "kernel.store_dense",
    sees=("slots out of order", "an impossible slot"),
    reduced=True,
)
def _store_dense(d: Draw, t: Trial) -> None:
    """Values stored at slots of a whole matrix are at their positions, and no other entry changes."""
    _stores(d, t, "kernel.store_dense")


@property_of(
    "kernel.dense", "KRN-001 KRN-002 KRN-006 KRN-007 KRN-014", "kernels", "kernel.dense kernel.exceeding",
    sees=("an entry equal to least", "no tokens"), reduced=True,
)  # fmt: skip
def _dense(d: Draw, t: Trial) -> None:
    """Products with a dense matrix are exact on integers, and all entries above a number are found."""
    shape, tokens = d.shape(), d.choice((1, 2, 3, 0))
    weight, x, dy = d.lattice(shape), d.lattice((tokens, shape[1])), d.lattice((tokens, shape[0]))
    t.saw("no tokens", tokens == 0)
    t.case("kernel.dense", {"weight": weight, "x": x, "dy": dy})
    values, least = reals(d.with_specials(d.levels(d.length(), 3, 1.0))), d.choice((0.0, 1.0, 2.0))
    t.saw("an entry equal to least", np.any(np.abs(values) == least))
    t.case("kernel.exceeding", {"values": values, "least": least})
