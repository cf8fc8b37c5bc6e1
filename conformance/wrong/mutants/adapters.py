"""Mutants of adapters: dense NumPy with one flaw, or the engine's operation with other inputs."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.oracle import prune
from conformance.wrong.mutants.adapters_edits import rank_of
from conformance.wrong.mutants.base import REFUSALS, Mutant, Operation, Values, changed, ids, mutant, mutants, right


def dense(a: Values, values: Any) -> Any:
    w = np.zeros(a["out"] * a["in"], dtype=a["values"].dtype)
    w[a["positions"]] = values
    return w.reshape(a["out"], a["in"])


def spp(flaw: str = "") -> Operation:
    """Return SPP on whole matrices with one flaw; without a flaw it passes every case."""

    def op(a: Values) -> Values:
        out = right("adapter.spp")(a)  # the engine comes first, because it refuses bad inputs
        n_out, bands, s = a["out"], len(a["a"]), a["alpha"] / a["rank"]
        band = np.arange(n_out) % bands if flaw == "bands in turns" else np.arange(n_out) // (n_out // bands)
        own = (np.arange(bands)[:, None] == band[None, :]).astype(a["a"].dtype)
        w, c = dense(a, a["values"]), a["c"][:, None]
        d = s * a["a"][band] * c * w
        x, dy = a["x"].reshape(-1, a["in"]), a["dy"].reshape(-1, n_out)
        g = s * (dy.T @ x) * w
        y = x @ (w + d).T + (0 if a["bias"] is None else a["bias"])
        da = own @ (g if flaw == "dA without c" else g * c)
        dc = (g if flaw == "dc without A" else g * a["a"][band]).sum(axis=1)
        outputs = {"y": y.reshape(a["dy"].shape), "dx": (dy @ (w + d)).reshape(a["x"].shape), "da": da, "dc": dc}
        return out | outputs | {"merged": (w + d).reshape(-1)[a["positions"]]}

    return op


def masked_by_value(a: Values) -> Values:
    """Run SparsePEFT as published, with W != 0 as the mask."""
    right("adapter.sparsepeft")(a)
    stored = a["values"] != 0
    out = right("adapter.sparsepeft")(a | {"positions": a["positions"][stored], "values": a["values"][stored]})
    merged = np.zeros_like(a["values"])
    merged[stored] = out["merged"]
    return out | {"merged": merged}


def gradients_unmasked(a: Values) -> Values:
    out, whole = right("adapter.sparsepeft")(a), right("adapter.lora")(a)
    return out | {name: whole[name] for name in ("da", "db")}


def not_masked(a: Values) -> Values:
    whole = right("adapter.lora")(a)
    return whole | {"merged": whole["merged"][a["positions"]]}


def merged_on_the_support(a: Values) -> Values:
    out = right("adapter.lora")(a)
    return out | {"merged": out["merged"] * dense(a, np.ones_like(a["values"])).reshape(-1)}


def zeros_leave(op: str) -> Operation:
    def f(a: Values) -> Values:
        out = right(op)(a)
        return out | {"merged": out["merged"][out["merged"] != 0]}

    return f


def refuses_nothing(op: str) -> Operation:
    def f(a: Values) -> Values:
        try:
            return right(op)(a)
        except REFUSALS:
            zero = np.zeros_like(a["x"])
            return dict.fromkeys(("y", "dx", "da", "db", "dc", "merged"), zero) | {"parameters": 0}

    return f


def merged_by_hand(a: Values) -> Any:
    return dense(a, a["values"]) + a["alpha"] / len(a["a"]) * (a["b"] @ a["a"])


def first_mask(a: Values) -> Values:
    right("adapter.lora_star")(a)
    return {"kept": a["positions"], "values": merged_by_hand(a).reshape(-1)[a["positions"]]}


def whatever_stays(a: Values) -> Values:
    """Run LoRA* without the checks of the number of kept weights and of NaN."""
    merged, norms = merged_by_hand(a), np.sqrt(a["square_sums"])
    if a["pattern"] is None:
        kept = prune.wanda(merged, list(norms), a["sparsity"])
    else:
        kept = prune.pattern(np.abs(merged) * norms, *a["pattern"])
    return {"kept": ids(kept), "values": merged.reshape(-1)[kept]}


def start(change: Callable[[Values, Values], Values]) -> Operation:
    return lambda a: (lambda out: out | change(out, a))(right("adapter.initial")(a))


def numbered_by_column(out: Values, a: Values) -> Values:
    return {"a": np.ascontiguousarray(out["a"].reshape(a["in"], a["rows"]).T)}


def _scales(clause: str, op: str) -> list[Mutant]:
    unscaled = changed(op, alpha=lambda a: float(rank_of(a)))
    upside_down = changed(op, alpha=lambda a: rank_of(a) ** 2 / a["alpha"])
    return [mutant(clause, op, unscaled, "no scale"), mutant(clause, op, upside_down, "rank / alpha")]


MUTANTS: list[Mutant] = [
    *_scales("ADP-001", "adapter.lora"),
    *_scales("ADP-006", "adapter.spp"),
    *_scales("ADP-007", "adapter.sparsepeft"),
    *mutants("adapter.initial",
        ("ADP-002", {"seed": lambda a: a["seed"] // 2 + 5}, "another seed"),
        ("ADP-002", {"matrix": lambda a: 0}, "one key for all matrices"),
        ("ADP-002", start(numbered_by_column), "draws numbered by column"),
        ("ADP-002", start(lambda out, a: {"a": out["a"] / np.sqrt(a["in"])}), "a bound of 1/in"),
        ("ADP-002", start(lambda out, a: {"other": out["other"] + 1}), "B starts at 1")),
    *mutants("adapter.spp",
        ("ADP-003", {"c": lambda a: a["c"] + 1}, "c starts at 1"),
        ("ADP-006", spp("bands in turns"), "bands in turns"),
        ("ADP-006", spp("dA without c"), "dA without c"),
        ("ADP-006", spp("dc without A"), "dc without A"),
        ("ADP-008", zeros_leave("adapter.spp"), "zeros leave the support")),
    mutant("ADP-004", "adapter.lora", merged_on_the_support, "merged on the support alone"),
    *mutants("adapter.lora_star",
        ("ADP-005", first_mask, "the first mask kept"),
        ("ADP-005", whatever_stays, "counts and NaN not looked at"),
        ("ADP-005", {"square_sums": lambda a: a["square_sums"] * 0 + 1}, "pruned by magnitude")),
    *mutants("adapter.sparsepeft",
        ("ADP-007", masked_by_value, "a mask of values"),
        ("ADP-007", gradients_unmasked, "gradients not masked"),
        ("ADP-007", not_masked, "no mask"),
        ("ADP-008", masked_by_value, "stored zeros stay zero")),
    *[
        mutant("ADP-009", op, refuses_nothing(op), "nothing refused")
        for op in ("adapter.lora", "adapter.spp", "adapter.sparsepeft")
    ],
]  # fmt: skip
CONTROLS = (Mutant("adapter.spp", "none", (), spp()),)
"""Rewritten operations without a flaw, which every case must pass."""
