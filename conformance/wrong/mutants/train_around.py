"""Mutants of dtypes, final weights, file names, warnings and shares of ranks."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from conformance.wrong.mutants.base import REFUSALS, Mutant, Operation, Values, after, ids, mutant, mutants, right

_TYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def in_sixteen_bits(out: Values, a: Values) -> Values:
    own = {"BF16": "bfloat16", "F16": "float16"}.get(a["stored"])
    return {"dtype": own} if own and a.get("asked") is None else {}


def never_wide(out: Values, a: Values) -> Values:
    return {"dtype": "float32"} if a.get("asked") is None else {}


def as_stored(out: Values, a: Values) -> Values:
    return {"dtype": {"F64": "float64"}.get(a["stored"], "float32")}


def written(round_to: Callable[[Any, Any], Any]) -> Operation:
    """Return final weights rounded by `round_to`; weights that the engine refuses stay refused."""

    def f(a: Values) -> Values:
        right("checkpoint.final")(a)
        with np.errstate(over="ignore"):
            bits = round_to(np.asarray(a["values"]), np.dtype(_TYPES[a["dtype"]]))
        return {"bits": np.frombuffer(np.ascontiguousarray(bits).tobytes(), dtype=np.uint8)}

    return f


def by_way_of_float32(x: Any, dtype: Any) -> Any:
    return x.astype(np.float32).astype(dtype)


def cut(x: Any, dtype: Any) -> Any:
    """Round towards zero."""
    y = x.astype(dtype)
    beyond = np.abs(y.astype(np.float64)) > np.abs(x)
    view = y.view({8: np.uint64, 4: np.uint32, 2: np.uint16}[dtype.itemsize])
    return np.where(beyond, view - view.dtype.type(1), view)


def without_zeros(x: Any, dtype: Any) -> Any:
    y = x.astype(dtype)
    return y[(y != 0) | (x == 0)]


def flushed(x: Any, dtype: Any) -> Any:
    y = x.astype(dtype)
    return np.where(np.abs(y) < ml_dtypes.finfo(dtype).tiny, y * 0, y)


def saturated(a: Values) -> Values:
    """Replace a weight that does not fit by the largest number that does."""
    try:
        return right("checkpoint.final")(a)
    except REFUSALS:
        x, dtype = np.asarray(a["values"]), np.dtype(_TYPES[a["dtype"]])
        top = float(ml_dtypes.finfo(dtype).max)
        if not np.isfinite(x).all():
            raise
        return {"bits": np.frombuffer(np.clip(x, -top, top).astype(dtype).tobytes(), dtype=np.uint8)}


def names(stock: Callable[[str], bool]) -> Operation:
    """Return a check that refuses file names by another rule."""

    def f(a: Values) -> Values:
        if stock(a["name"]):
            return right("file.name")({"name": "model.safetensors"})
        return {"ok": 1}

    return f


def without_warning(name: str) -> Operation:
    """Return warnings without those of one name."""

    def change(out: Values, a: Values) -> Values:
        kept = [(step, n) for step, n in zip(out["steps"].tolist(), out["names"], strict=True) if n != name]
        return {"steps": ids(step for step, _ in kept), "names": [n for _, n in kept]}

    return after("run.warnings", change)


def at_the_event(out: Values, a: Values) -> Values:
    pairs = zip(out["steps"].tolist(), out["names"], strict=True)
    return {"steps": ids(step - (name == "loss-jump-after-growth") for step, name in pairs)}


def once(out: Values, a: Values) -> Values:
    first_steps: dict[str, int] = {}
    for step, name in zip(out["steps"].tolist(), out["names"], strict=True):
        first_steps.setdefault(name, step)
    return {"steps": ids(first_steps.values()), "names": list(first_steps)}


def rest_on_the_first(a: Values) -> Values:
    right("ranks.rows")(a)
    size, rest = divmod(a["rows"], a["ranks"])
    return {"first": ids([0, *(rest + size * (r + 1) for r in range(a["ranks"]))])}


def rest_on_the_last(a: Values) -> Values:
    right("ranks.rows")(a)
    return {"first": ids([*(a["rows"] // a["ranks"] * r for r in range(a["ranks"])), a["rows"]])}


MUTANTS: list[Mutant] = [
    *mutants("checkpoint.dtype",
        ("CKP-001", in_sixteen_bits, "16 bits stay 16 bits"),
        ("CKP-001", never_wide, "always float32"),
        ("CKP-001", as_stored, "what is asked for is passed over"),
        unchecked="CKP-001"),
    *mutants("checkpoint.final",
        ("CKP-004", written(by_way_of_float32), "rounded twice"),
        ("CKP-004", written(cut), "cut"),
        ("CKP-004", written(without_zeros), "weights that round to zero are gone"),
        ("CKP-004", written(flushed), "subnormal numbers flushed"),
        ("CKP-004", saturated, "a weight that does not fit becomes the largest"),
        unchecked="CKP-004"),
    *(
        mutant("TRN-011", "run.warnings", without_warning(name), f"no {name}")
        for name in ("support-above-target", "loss-jump-after-growth", "divergence", "denser-at-end")
    ),
    *mutants("run.warnings",
        ("TRN-011", at_the_event, "a jump at the step of its event"),
        ("TRN-011", once, "each name once")),
    *mutants("ranks.rows",
        ("TRN-013", rest_on_the_first, "the rest on the first rank"),
        ("TRN-013", rest_on_the_last, "the rest on the last rank"),
        unchecked="TRN-013"),
]  # fmt: skip
