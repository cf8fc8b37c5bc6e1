"""Wrong dtypes, final weights, names, stop tokens, records, warnings and shares."""

import json
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from conformance.engine.parts import event_record
from conformance.wrong.mutants.base import (
    REFUSALS,
    Mutant,
    Operation,
    Values,
    after,
    changed,
    edited,
    ids,
    mutant,
    right,
    unchecked,
)

__all__ = ["MUTANTS"]

_TYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def in_sixteen_bits(out: Values, a: Values) -> Values:
    own = {"BF16": "bfloat16", "F16": "float16"}.get(a["stored"])
    return {"dtype": own} if own and a.get("asked") is None else {}


def never_wide(out: Values, a: Values) -> Values:
    return {"dtype": "float32"} if a.get("asked") is None else {}


def as_stored(out: Values, a: Values) -> Values:
    return {"dtype": {"F64": "float64"}.get(a["stored"], "float32")}


def written(round_to: Callable[[Any, Any], Any]) -> Operation:
    """Final weights rounded in another way, where the right ones are not refused."""

    def f(a: Values) -> Values:
        right("checkpoint.final")(a)
        with np.errstate(over="ignore"):
            bits = round_to(np.asarray(a["values"]), np.dtype(_TYPES[a["dtype"]]))
        return {"bits": np.frombuffer(np.ascontiguousarray(bits).tobytes(), dtype=np.uint8)}

    return f


def by_way_of_float32(x: Any, dtype: Any) -> Any:
    return x.astype(np.float32).astype(dtype)


def cut(x: Any, dtype: Any) -> Any:
    """Towards zero."""
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
    """A weight that does not fit becomes the largest that does."""
    try:
        return right("checkpoint.final")(a)
    except REFUSALS:
        x, dtype = np.asarray(a["values"]), np.dtype(_TYPES[a["dtype"]])
        top = float(ml_dtypes.finfo(dtype).max)
        if not np.isfinite(x).all():
            raise
        return {"bits": np.frombuffer(np.clip(x, -top, top).astype(dtype).tobytes(), dtype=np.uint8)}


def names(stock: Callable[[str], bool]) -> Operation:
    """Names that are refused by another rule."""

    def f(a: Values) -> Values:
        if stock(a["name"]):
            return right("file.name")({"name": "model.safetensors"})
        return {"ok": 1}

    return f


def of_config(out: Values, a: Values) -> Values:
    """The config alone is asked."""
    return right("generate.stops")({"config": a["config"]})


def true_if_any(a: Values) -> Values:
    """0 and an empty list count as absent."""
    told = json.loads(a.get("generation") or "{}")
    if not told.get("eos_token_id"):
        return right("generate.stops")({"config": a["config"]})
    return right("generate.stops")(a)


def first_alone(out: Values, a: Values) -> Values:
    return {"stops": out["stops"][:1]}


def no_pattern(out: Values, a: Values) -> Values:
    return {"pattern": None}


def without_warning(name: str) -> Operation:
    """A kind of warnings that is never given."""

    def change(out: Values, a: Values) -> Values:
        kept = [(step, n) for step, n in zip(out["steps"].tolist(), out["names"], strict=True) if n != name]
        return {"steps": ids(step for step, _ in kept), "names": [n for _, n in kept]}

    return after("run.warnings", change)


def at_the_event(out: Values, a: Values) -> Values:
    pairs = zip(out["steps"].tolist(), out["names"], strict=True)
    return {"steps": ids(step - (name == "loss-jump-after-growth") for step, name in pairs)}


def once(out: Values, a: Values) -> Values:
    seen: dict[str, int] = {}
    for step, name in zip(out["steps"].tolist(), out["names"], strict=True):
        seen.setdefault(name, step)
    return {"steps": ids(seen.values()), "names": list(seen)}


def rest_on_the_first(a: Values) -> Values:
    right("ranks.rows")(a)
    size, rest = divmod(a["rows"], a["ranks"])
    return {"first": ids([0, *(rest + size * (r + 1) for r in range(a["ranks"]))])}


def rest_on_the_last(a: Values) -> Values:
    right("ranks.rows")(a)
    return {"first": ids([*(a["rows"] // a["ranks"] * r for r in range(a["ranks"])), a["rows"]])}


def mask_of_bits(out: Values, a: Values) -> Values:
    """A mask is expanded to 255 in place of 1."""
    bits = out["bits"]
    return {"bits": np.where(bits == 1, 255, bits).astype(np.uint8)} if bits.max(initial=0) == 1 else {}


def norm_for_none(out: Values, a: Values) -> Values:
    return {"gradient_norm": [0.0 if norm is None else norm for norm in out["gradient_norm"]]}


_RATIOS = (
    ("max(slots_before, 1)", "max(n_slots, 1)", "churn by the slots after it"),
    ("churn=int(event.grown.shape[0])", "churn=int(event.dropped.shape[0])", "churn of what is dropped"),
    ("max(slots_before, 1)", "(slots_before or float('nan'))", "churn of no slots is no number"),
    ("start / max(budget, 1)", "n_stored / max(budget, 1)", "overlap without those that grew back"),
    ("start / max(budget, 1)", "start / max(n_stored, 1)", "overlap by what is stored after it"),
)
"""Text of the record, what stands there instead, and the flaw."""

MUTANTS: list[Mutant] = [
    mutant("CKP-001", "checkpoint.dtype", after("checkpoint.dtype", in_sixteen_bits), "16 bits stay 16 bits"),
    mutant("CKP-001", "checkpoint.dtype", after("checkpoint.dtype", never_wide), "always float32"),
    mutant("CKP-001", "checkpoint.dtype", after("checkpoint.dtype", as_stored), "what is asked for is passed over"),
    *unchecked("checkpoint.dtype", "CKP-001"),
    mutant("CKP-004", "checkpoint.final", written(by_way_of_float32), "rounded twice"),
    mutant("CKP-004", "checkpoint.final", written(cut), "cut"),
    mutant("CKP-004", "checkpoint.final", written(without_zeros), "weights that round to zero are gone"),
    mutant("CKP-004", "checkpoint.final", written(flushed), "subnormal numbers flushed"),
    mutant("CKP-004", "checkpoint.final", saturated, "a weight that does not fit becomes the largest"),
    *unchecked("checkpoint.final", "CKP-004"),
    mutant("FMT-112", "file.name", names(lambda name: name == "model.safetensors"), "one name alone"),
    mutant(
        "FMT-112",
        "file.name",
        names(lambda n: n.startswith(("model", "adapter_model", "pytorch_model")) and n.endswith(".safetensors")),
        "by how a name begins and ends",
    ),
    *unchecked("file.name", "FMT-112"),
    mutant(
        "FMT-098",
        "file.expand",
        changed("file.expand", limit=lambda a: 2 * (a.get("limit") or 2**35)),
        "twice the limit",
    ),
    mutant("FMT-098", "file.expand", after("file.expand", mask_of_bits), "a mask of 255"),
    *unchecked("file.expand", "FMT-098"),
    mutant("GEN-008", "generate.stops", after("generate.stops", of_config), "the config alone"),
    mutant("GEN-008", "generate.stops", true_if_any, "0 taken for none"),
    mutant("GEN-008", "generate.stops", after("generate.stops", first_alone), "the first of a list"),
    *unchecked("generate.stops", "GEN-008"),
    mutant("PRN-008", "prune.record", after("prune.record", no_pattern), "a pattern passed over"),
    *unchecked("prune.record", "PRN-008"),
    *(
        mutant("TRN-011", "run.warnings", without_warning(name), f"no {name}")
        for name in ("support-above-target", "loss-jump-after-growth", "divergence", "denser-at-end")
    ),
    mutant("TRN-011", "run.warnings", after("run.warnings", at_the_event), "a jump at the step of its event"),
    mutant("TRN-011", "run.warnings", after("run.warnings", once), "each name once"),
    mutant("TRN-013", "ranks.rows", rest_on_the_first, "the rest on the first rank"),
    mutant("TRN-013", "ranks.rows", rest_on_the_last, "the rest on the last rank"),
    *unchecked("ranks.rows", "TRN-013"),
    *(edited("TRN-009", "event.ratios", event_record.record_of, old, new, flaw) for old, new, flaw in _RATIOS),
    mutant("TRN-009", "event.ratios", after("event.ratios", norm_for_none), "a norm of 0 where none was asked for"),
]
