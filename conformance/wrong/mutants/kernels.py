"""Mutants of kernels (KRN)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from conformance.protocol.port import Refused
from conformance.wrong.mutants.base import REFUSALS, Mutant, Operation, Values, flipped, ids, mutant, mutants, right
from conformance.wrong.mutants.layers import short_mantissa

__all__ = ["MUTANTS"]


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
        ("TOP-005", by_groups(lambda groups, place, _: 2 * groups + place), "every group taken as full")),
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
        unchecked="KRN-009 KRN-012"),
    mutant("KRN-012", "kernel.store_dense", {"new": lambda a: a["new"][::-1]}, "values in another order"),
    *mutants("kernel.exceeding",
        ("KRN-014", strictly_less, "≥ for >"),
        ("KRN-014", nan_left_out, "NaN left out"),
        ("KRN-014",
         {"values": lambda a: a["values"] * (a["values"] > 0) if a["values"].ndim == 1 else a["values"]},
         "negative values left out"),
        unchecked="KRN-009"),
]  # fmt: skip
