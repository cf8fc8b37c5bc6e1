"""Mutants of adapters (ADP)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.engine.parts import adapter_base, adapter_lora, adapter_sparsepeft, adapter_spp, linear
from conformance.oracle import prune
from conformance.wrong.mutants.base import (
    REFUSALS,
    Mutant,
    Operation,
    Values,
    changed,
    edited,
    edits,
    forgotten,
    ids,
    mutant,
    mutants,
    right,
)


def dense(a: Values, values: Any) -> Any:
    w = np.zeros(a["out"] * a["in"], dtype=a["values"].dtype)
    w[a["positions"]] = values
    return w.reshape(a["out"], a["in"])


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


"""Rewritten operations without a flaw, which every case must pass."""


def rank_of(a: Values) -> Any:
    return a["rank"] if "c" in a else len(a["a"])


def _other(a: Values) -> Any:
    return a["c"] if "c" in a else a["b"]


_FACTORS: dict[str, Any] = {
    "a_narrow_A": lambda a: a["a"].shape[1] < a["in"],
    "a_wide_A": lambda a: a["a"].shape[1] > a["in"],
    "a_short_other_factor": lambda a: len(_other(a)) < a["out"],
    "a_long_other_factor": lambda a: len(_other(a)) > a["out"],
    "a_rank_of_0": lambda a: rank_of(a) == 0 and not ("c" in a and len(a["a"]) == 0),
    "an_alpha_of_0": lambda a: a["alpha"] == 0,
    "an_alpha_below_0": lambda a: a["alpha"] < 0,
    "an_infinite_alpha": lambda a: a["alpha"] == np.inf,
    "an_alpha_that_is_NaN": lambda a: a["alpha"] != a["alpha"],
}

_RANKS: dict[str, Any] = {"another_rank_of_B": lambda a: a["b"].shape[1] != len(a["a"])}

_BANDS: dict[str, Any] = {
    "bands_with_a_rest": lambda a: 0 < len(a["a"]) < a["out"] and a["out"] % len(a["a"]),
    "more_bands_than_rows": lambda a: len(a["a"]) > a["out"],
    "no_bands": lambda a: len(a["a"]) == 0,
}


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
        ("ADP-006", adapter_spp._band_of_rows, "// max(n_out // bands, 1)", "% bands", "bands in turns"),
        ("ADP-006", adapter_spp.spp_gradients, "is_own, spp.c[None, :]", "is_own, xp.ones_like(spp.c)[None, :]",
         "dA without c"),
        ("ADP-006", adapter_spp.spp_gradients, "matmul(spp.a, stored)", "matmul(xp.ones_like(spp.a), stored)",
         "dc without A"),
        ("ADP-008", zeros_leave("adapter.spp"), "zeros leave the support"),
        ("ADP-006", adapter_spp.spp_gradients, "spp.scale * kernels.sample", "kernels.sample",
         "gradients without s"),
        ("ADP-006", adapter_spp.spp_gradients, " * base.values", "", "gradients without W"),
        ("ADP-006", adapter_spp.spp_backward, "dx + dx_more", "dx", "dx of W alone")),
    *mutants("adapter.lora",
        ("ADP-004", merged_on_the_support, "merged on the support alone"),
        ("ADP-001", linear.linear_forward, "change.scale * ((rows", "((rows", "y without s"),
        ("ADP-001", linear.linear_backward, "(change.scale * (rows @", "((rows @", "dx without s"),
        ("ADP-001", linear.linear_backward, "dx + (change.scale * (rows @ change.b)) @ change.a", "dx",
         "dx of W alone"),
        ("ADP-001", adapter_lora.lora_gradients, "du = change.scale * ", "du = ", "dA without s"),
        ("ADP-001", adapter_lora.lora_gradients, "change.scale * (xp.matrix_transpose(gradient.dy)",
         "(xp.matrix_transpose(gradient.dy)", "dB without s"),
        ("ADP-004", adapter_lora.lora_merge, "lora.scale * (", "(", "a merge without s")),
    *mutants("adapter.lora_star",
        ("ADP-005", first_mask, "the first mask kept"),
        ("ADP-005", whatever_stays, "counts and NaN not looked at"),
        ("ADP-005", {"square_sums": lambda a: a["square_sums"] * 0 + 1}, "pruned by magnitude")),
    *edits("adapter.lora_star", "ADP-005", adapter_lora.kept_of_merged,
        ("positions.shape[0] < base.topology.nnz or (", "(", "fewer weights than in S"),
        (" or (positions.shape[0] > base.topology.nnz and not patterned)", "", "more weights than in S"),
        ("positions.shape[0] < base.topology.nnz or (positions.shape[0] > base.topology.nnz and not patterned)",
         "positions.shape[0] != base.topology.nnz and not patterned",
         "a pattern that keeps fewer weights than in S"),
        (" and not patterned", "", "a pattern refused, because a weight that it kept is 0"),
        ("xp.take(xp.reshape(merged, (-1,)), positions)",
         "xp.take(spread(base.values, flat(base.topology), base.topology.numel), positions)",
         "values of before the merge")),
    *mutants("adapter.sparsepeft",
        ("ADP-007", masked_by_value, "a mask of values"),
        ("ADP-007", gradients_unmasked, "gradients not masked"),
        ("ADP-007", not_masked, "no mask"),
        ("ADP-008", masked_by_value, "stored zeros stay zero"),
        ("ADP-007", adapter_sparsepeft.sparsepeft_gradients, "lora.scale * kernels.sample", "kernels.sample",
         "gradients without s"),
        ("ADP-007", adapter_sparsepeft.sparsepeft_backward, "dx + dx_more", "dx", "dx of W alone")),
    *[
        mutant("ADP-009", op, refuses_nothing(op), "nothing refused")
        for op in ("adapter.lora", "adapter.spp", "adapter.sparsepeft")
    ],
    *(m for op in ("lora", "sparsepeft") for m in forgotten(f"adapter.{op}", "ADP-009", **_FACTORS, **_RANKS)),
    *forgotten("adapter.spp", "ADP-009", **_FACTORS, **_BANDS),
    *(edited("ADP-009", op, adapter_base.check_scale, "0 < alpha", "1 <= alpha", "an alpha below 1 refused")
      for op in ("adapter.lora", "adapter.spp", "adapter.sparsepeft")),
]  # fmt: skip
