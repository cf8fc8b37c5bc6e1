"""Mutants of products with one condition of a clause forgotten."""

from typing import Any

from conformance.engine.parts import kernels
from conformance.engine.parts import quantise_grid as grid
from conformance.wrong.mutants.base import Mutant, Values, edited, forgotten, mutants


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

MUTANTS: list[Mutant] = [
    *forgotten("kernel.sparse", "KRN-009", **_SPARSE),
    *forgotten("kernel.sparse", "KRN-010", **{f"the_dtype_of_{n}": _odd(n) for n in ("x", "dy", "values")}),
    *forgotten("kernel.dense", "KRN-009", **_OPERANDS),
    *forgotten("kernel.dense", "KRN-010", **{f"the_dtype_of_{n}": _odd(n) for n in ("x", "dy", "weight")}),
    *forgotten("kernel.store", "KRN-009", **_STORED),
    *forgotten("kernel.store", "KRN-012", **_SLOTS),
    *forgotten("kernel.store_dense", "KRN-009", **_STORED, **_SHAPE),
    *forgotten("kernel.store_dense", "KRN-012", **_SLOTS),
    edited("KRN-012", "kernel.store_dense", kernels.locate, "array_namespace(slots).take(flat(topology), slots)",
     "slots", "slots taken for positions"),
    *mutants("kernel.store",
        ("KRN-012", kernels._placed, "xp.take(xp.take(values, order), source)", "xp.take(values, source)",
         "values in the order of places"),
        ("KRN-016 KRN-012", kernels.store, _LIVE, _STORED_FROZEN, "edited, stored into the frozen part")),
    *mutants("kernel.exceeding",
        ("KRN-014", kernels.exceeding, "~(xp.abs(values) <= least)",
         "~(xp.abs(values) <= least) & (values != -xp.inf)", "−∞ left out"),
        ("KRN-014", kernels.exceeding, "[0], xp.int64)", "[0][::-1], xp.int64)", "descending")),
    *mutants("kernel.sparse",
        ("KRN-001", kernels._multiply, "    return x @ _dense(packed).T", _SINGLE_ROW,
         "y of one token not written behind the last 64 columns"),
        ("KRN-002", kernels._multiply_transposed, "    return dy @ _dense(packed)", _FULL_TILES,
         "dx not written behind the last 128 tokens"),
        ("KRN-003", kernels.sample, "    return xp.take(xp.reshape(dy.T @ x, (-1,)), flat(topology))",
         _FULL_BLOCKS, "a large sample without the tokens behind the last 256"),
        shown_by="kernel.tiles"),
    *mutants("kernel.sparse",
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
]  # fmt: skip
