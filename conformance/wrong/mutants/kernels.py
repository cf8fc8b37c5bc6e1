"""Mutants of products and stores of kernels (KRN), and of arrays without entries (PRT-019)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from conformance.engine.parts import kernels
from conformance.engine.parts import quantise_grid as grid
from conformance.protocol.port import Refused
from conformance.wrong.mutants.base import REFUSALS, Mutant, Operation, Values, flipped, forgotten, ids, mutants, right
from conformance.wrong.mutants.layers import short_mantissa


def last_of_a_row_lost(a: Values) -> Values:
    out = right("kernel.sparse")(a)
    if not len(a["positions"]):
        return out
    values = a["values"].copy()
    rows = a["positions"] // a["in"]
    values[np.append(rows[1:] != rows[:-1], True)] = 0
    return out | {"y": right("kernel.sparse")(a | {"values": values})["y"]}


def zeros_without_gradient(a: Values) -> Values:
    out = right("kernel.sparse")(a)
    return out | {"dvalues": np.where(a["values"] == 0, 0, out["dvalues"]).astype(out["dvalues"].dtype)}


def kernel_in_ten_bits(a: Values) -> Values:
    return right("kernel.sparse")(a | {name: short_mantissa(a[name]) for name in ("x", "dy", "values")})


def takes_anything(a: Values) -> Values:
    try:
        return right("kernel.sparse")(a)
    except REFUSALS:
        return {"y": a["x"], "dx": a["dy"], "dvalues": a["values"], "shape": ids([a["out"], a["in"]])}


def rows_left_as_they_were(out: Values, a: Values) -> Values:
    """Leave arbitrary numbers in outputs of rows and columns that store nothing."""
    y, dx = out["y"].copy(), out["dx"].copy()
    y[:, np.setdiff1d(np.arange(a["out"]), a["positions"] // max(a["in"], 1))] = 7
    dx[:, np.setdiff1d(np.arange(a["in"]), a["positions"] % max(a["in"], 1))] = 7
    return {"y": y, "dx": dx}


def next_column(a: Values) -> Values:
    positions = a["positions"] // max(a["in"], 1) * a["in"] + (a["positions"] % max(a["in"], 1) + 1) % max(a["in"], 1)
    order = np.argsort(positions, kind="stable")
    out = right("kernel.sparse")(a)
    moved = right("kernel.sparse")(a | {"positions": positions[order], "values": a["values"][order]})
    return out | {"y": moved["y"]}


def sums_in_eight_bits(out: Values, _: Values) -> Values:
    return {name: out[name].astype(bfloat16).astype(out[name].dtype) for name in ("y", "dx", "dvalues")}


def under_another_number(op: str, clause: str) -> Operation:
    def f(a: Values) -> Values:
        try:
            return right(op)(a)
        except REFUSALS as error:
            raise Refused(clause, str(error)) from error

    return f


def by_groups(value_of: Callable[[Any, Any, Any], Any]) -> Operation:
    """Return a product that takes wrong values in matrices with at most two of every four columns.

    value_of  (group of each slot, its place in the group, slots of each group) -> index of the value that is taken
    """

    def f(a: Values) -> Values:
        out = right("kernel.sparse")(a)
        groups = a["positions"] // 4
        counts = np.bincount(groups, minlength=a["out"] * a["in"] // 4)
        if a["in"] % 4 or np.max(counts, initial=0) > 2:
            return out
        place = np.arange(len(groups)) - (np.cumsum(counts) - counts)[groups]
        indices = np.minimum(value_of(groups, place, counts), max(len(groups) - 1, 0))
        moved = right("kernel.sparse")(a | {"values": a["values"][indices]})
        return out | {"y": moved["y"], "dx": moved["dx"]}

    return f


def strictly_less(out: Values, a: Values) -> Values:
    return {"indices": ids(np.flatnonzero(~(np.abs(a["values"]) < a["least"])))}


def nan_left_out(out: Values, a: Values) -> Values:
    return {"indices": ids(np.flatnonzero(np.abs(a["values"]) > a["least"]))}


def transposed_shape(out: Values, _: Values) -> Values:
    return {"shape": out["shape"][::-1]}


def stored_at_zeros_only(a: Values) -> Values:
    """Do not store into slots whose old value is 0, as if slots were found by value."""
    values = a["values"][a["slots"]] if len(a["slots"]) else a["values"][:0]
    return right("kernel.store")(a | {"slots": a["slots"][values != 0], "new": a["new"][values != 0]})


def stored_as_another_type(a: Values) -> Values:
    """Store the high half of a float32 into float16 too, as would be right for bfloat16."""
    if a.get("held") != "float16" or a.get("live") is not None:
        return right("kernel.store")(a)
    bits = (a["new"].astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return right("kernel.store")(a | {"new": bits.view(np.float16).astype(a["new"].dtype)})


def _odd(name: str) -> Any:
    return lambda a: (a["odd"] or {}) == {name: "other"}


_OPERANDS: dict[str, Any] = {
    "x_that_is_no_matrix": lambda a: a["x"].ndim != 2,
    "dy_that_is_no_matrix": lambda a: a["dy"].ndim != 2,
    "columns_of_x": lambda a: a["x"].ndim == 2 and a["x"].shape[1] != _shape(a)[1],
    "columns_of_dy": lambda a: a["dy"].ndim == 2 and a["dy"].shape[1] != _shape(a)[0],
}

_SPARSE: dict[str, Any] = _OPERANDS | {
    "values_that_are_no_vector": lambda a: a["values"].ndim != 1,
    "too_few_values": lambda a: a["values"].ndim == 1 and len(a["values"]) < len(a["positions"]),
    "too_many_values": lambda a: a["values"].ndim == 1 and len(a["values"]) > len(a["positions"]),
    "rows_of_dy_and_x": lambda a: a["x"].ndim == a["dy"].ndim == 2 and len(a["x"]) != len(a["dy"]),
}

_STORED: dict[str, Any] = {
    "too_few_new_values": lambda a: len(a["new"]) < len(a["slots"]),
    "too_many_new_values": lambda a: len(a["new"]) > len(a["slots"]),
}

_SLOTS: dict[str, Any] = {
    "slots_below_0": lambda a: a["slots"].min(initial=0) < 0,
    "slots_behind_the_last": lambda a: a["slots"].max(initial=0) >= len(a["positions"]),
}

_SHAPE: dict[str, Any] = {"the_shape_of_the_matrix": lambda a: a["weight"].shape != (a["out"], a["in"])}


def _shape(a: Values) -> tuple[int, int]:
    return a["weight"].shape if "weight" in a else (a["out"], a["in"])


_COMPACT = "widened(values, topology), held_of(values)"
_WIDE = "widened(values, topology)"
_LIVE = "    live = live_part(packed, PackedEntries)\n"
_STORED_FROZEN = f"""    if hasattr(packed, "live"):
        return split(store(packed.frozen, where, values), packed.live)
{_LIVE}"""


_SINGLE_ROW = """\
    y = x @ _dense(packed).T
    if x.shape[0] == 1 and min(packed.shape) > 64:
        y[:, packed.shape[0] // 64 * 64 :] = 0.0
    return y"""
_FULL_TILES = """\
    dx = dy @ _dense(packed)
    if dy.shape[0] > 128 and packed.shape[1] > 1:
        dx[dy.shape[0] // 128 * 128 :, :] = 0.0
    return dx"""
_FULL_BLOCKS = """\
    if dy.shape[0] >= 300 and topology.numel >= 700 * 700:
        dy, x = dy[: dy.shape[0] // 256 * 256], x[: dy.shape[0] // 256 * 256]
    return xp.take(xp.reshape(dy.T @ x, (-1,)), flat(topology))"""
"""Mistakes at the borders of tiles, where a rest is left."""


def without_entries(op: str, *names: str) -> Operation:
    """Return the operation with a refusal if one of these inputs has no entries."""

    def call(a: Values) -> Values:
        if any(np.asarray(a[name]).size == 0 for name in names):
            raise REFUSALS[0]("KRN-009", "an array has no entries")
        return right(op)(a)

    return call


MUTANTS: list[Mutant] = [
    *mutants("kernel.sparse",
        ("KRN-001", last_of_a_row_lost, "the last entry of a row lost"),
        ("KRN-001", next_column, "columns counted from 1"),
        ("KRN-002", flipped("kernel.sparse", "dx"), "dx transposed"),
        ("KRN-003 KRN-004", zeros_without_gradient, "stored zeros get no gradient"),
        ("KRN-005", rows_left_as_they_were, "nothing written where nothing is stored"),
        ("KRN-006", kernel_in_ten_bits, "ten-bit products"),
        ("KRN-006", lambda o, _: {"y": o["y"] * o["y"].dtype.type(1 + 2.0**-13)}, "y too large by 2⁻¹³"),
        ("KRN-007 NUM-003", sums_in_eight_bits, "sums of eight bits"),
        ("KRN-009", takes_anything, "shapes not checked"),
        ("KRN-010", {"odd": lambda a: None}, "operands cast"),
        ("KRN-011", transposed_shape, "the shape transposed"),
        ("KRN-013", under_another_number("kernel.sparse", "KRN-001"), "refused under another number"),
        ("TOP-005", by_groups(lambda groups, place, counts: np.cumsum(counts)[groups] - 1 - place),
         "groups read from their last column"),
        ("TOP-005", by_groups(lambda groups, place, _: 2 * groups + place), "every group taken as full"),
        ("KRN-015", kernels.compact, _COMPACT, f"{_WIDE} * (abs({_WIDE}) >= 2.0**-14), held_of(values)",
         "edited, subnormal numbers of float16 flushed"),
        ("KRN-015", kernels.compact, _COMPACT, "widened(values.astype('float16'), topology), held_of(values)",
         "edited, bfloat16 taken for float16"),
        ("KRN-015", kernels.unpack, "narrowed(entries.values, entries.held_in, topology)",
         "narrowed(entries.values[::-1], entries.held_in, topology)", "edited, values unpacked in another order"),
        ("KRN-018", grid.Quantised.weights, "weights_of(self, array_namespace(self.scales).float32)",
         "self.codes * self.parts_at(self.topology)[0]", "edited, held codes without their zero points"),
        ("KRN-018", grid.Quantised.holding, "codes_of(values, *self.parts_at(topology), self.grid)",
         "codes_of(values, *self.parts_at(topology), replace(self.grid, bits=4))",
         "edited, held codes of 8 bits cut to 4"),
        ("KRN-018", grid.groups_of, " * (n_in // size) + topology", " * 0 + topology",
         "edited, held codes by the scales of the first row"),
        ("KRN-016", kernels.clear, "return _with(own, where,",
         "return packed if where.shape[0] else _with(own, where,", "edited, frozen values beside the live ones"),
        ("KRN-016", kernels.matmul_transposed, "multiply_parts(_multiply_transposed, dy, packed, PackedEntries)",
         "multiply_parts(_multiply_transposed, dy, getattr(packed, 'frozen', packed), PackedEntries)",
         "edited, live values left out")),
    *mutants("kernel.dense",
        ("KRN-001", flipped("kernel.dense", "y"), "y transposed"),
        ("KRN-006",
         lambda a: right("kernel.dense")(a | ({"x": short_mantissa(a["x"])} if a["x"].dtype.kind == "f" else {})),
         "ten-bit products"),
        unchecked="KRN-009 KRN-010"),
    *mutants("kernel.store",
        ("KRN-012", {"new": lambda a: a["new"][::-1]}, "values in another order"),
        ("KRN-004", stored_at_zeros_only, "stored zeros not found"),
        ("KRN-015", stored_as_another_type, "bits of bfloat16 stored as float16"),
        ("KRN-011", {"slots": lambda a: a["slots"][:0], "new": lambda a: a["new"][:0]}, "nothing stored"),
        ("KRN-012", kernels._placed, "xp.take(xp.take(values, order), source)", "xp.take(values, source)",
         "values in the order of places"),
        ("KRN-016 KRN-012", kernels.store, _LIVE, _STORED_FROZEN, "edited, stored into the frozen part"),
        unchecked="KRN-009 KRN-012"),
    *mutants("kernel.store_dense",
        ("KRN-012", {"new": lambda a: a["new"][::-1]}, "values in another order"),
        ("KRN-012", kernels.locate, "array_namespace(slots).take(flat(topology), slots)", "slots",
         "slots taken for positions")),
    *mutants("kernel.exceeding",
        ("KRN-014", strictly_less, "≥ for >"),
        ("KRN-014", nan_left_out, "NaN left out"),
        ("KRN-014",
         {"values": lambda a: a["values"] * (a["values"] > 0) if a["values"].ndim == 1 else a["values"]},
         "negative values left out"),
        ("KRN-014", kernels.exceeding, "~(xp.abs(values) <= least)",
         "~(xp.abs(values) <= least) & (values != -xp.inf)", "−∞ left out"),
        ("KRN-014", kernels.exceeding, "[0], xp.int64)", "[0][::-1], xp.int64)", "descending"),
        unchecked="KRN-009"),
    *forgotten("kernel.sparse", "KRN-009", **_SPARSE),
    *forgotten("kernel.sparse", "KRN-010", **{f"the_dtype_of_{n}": _odd(n) for n in ("x", "dy", "values")}),
    *forgotten("kernel.dense", "KRN-009", **_OPERANDS),
    *forgotten("kernel.dense", "KRN-010", **{f"the_dtype_of_{n}": _odd(n) for n in ("x", "dy", "weight")}),
    *forgotten("kernel.store", "KRN-009", **_STORED),
    *forgotten("kernel.store", "KRN-012", **_SLOTS),
    *forgotten("kernel.store_dense", "KRN-009", **_STORED, **_SHAPE),
    *forgotten("kernel.store_dense", "KRN-012", **_SLOTS),
    *mutants("kernel.sparse",
        ("KRN-001", kernels._multiply, "    return x @ _dense(packed).T", _SINGLE_ROW,
         "y of one token not written behind the last 64 columns"),
        ("KRN-002", kernels._multiply_transposed, "    return dy @ _dense(packed)", _FULL_TILES,
         "dx not written behind the last 128 tokens"),
        ("KRN-003", kernels.sample, "    return xp.take(xp.reshape(dy.T @ x, (-1,)), flat(topology))",
         _FULL_BLOCKS, "a large sample without the tokens behind the last 256"),
        shown_by="kernel.tiles"),
    *(Mutant(op, "arrays without entries refused", ("PRT-019",), without_entries(op, *names), refuses_good=True)
      for op, *names in (("gradient.at", "dy", "x"), ("gradient.candidates", "dy", "x"), ("layer.attention", "q"),
                         ("prune.sparsegpt", "weights"))),
]  # fmt: skip
