"""Mutants of adapters with one condition of a clause forgotten."""

from typing import Any

import numpy as np

from conformance.engine.parts import adapter_base, adapter_lora, adapter_sparsepeft, adapter_spp, linear
from conformance.wrong.mutants.base import Mutant, Values, edited, edits, forgotten, mutants


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
    *(m for op in ("lora", "sparsepeft") for m in forgotten(f"adapter.{op}", "ADP-009", **_FACTORS, **_RANKS)),
    *forgotten("adapter.spp", "ADP-009", **_FACTORS, **_BANDS),
    *mutants("adapter.lora",
        ("ADP-001", linear.linear_forward, "change.scale * ((rows", "((rows", "y without s"),
        ("ADP-001", linear.linear_backward, "(change.scale * (rows @", "((rows @", "dx without s"),
        ("ADP-001", linear.linear_backward, "dx + (change.scale * (rows @ change.b)) @ change.a", "dx",
         "dx of W alone"),
        ("ADP-001", adapter_lora.lora_gradients, "du = change.scale * ", "du = ", "dA without s"),
        ("ADP-001", adapter_lora.lora_gradients, "change.scale * (xp.matrix_transpose(gradient.dy)",
         "(xp.matrix_transpose(gradient.dy)", "dB without s"),
        ("ADP-004", adapter_lora.lora_merge, "lora.scale * (", "(", "a merge without s")),
    *edits("adapter.lora_star", "ADP-005", adapter_lora.kept_of_merged,
        ("positions.shape[0] < base.topology.nnz or (", "(", "fewer weights than in S"),
        (" or (positions.shape[0] > base.topology.nnz and not patterned)", "", "more weights than in S"),
        ("positions.shape[0] < base.topology.nnz or (positions.shape[0] > base.topology.nnz and not patterned)",
         "positions.shape[0] != base.topology.nnz and not patterned", "a pattern that keeps fewer weights than in S"),
        (" and not patterned", "", "a pattern refused, because a weight that it kept is 0"),
        ("xp.take(xp.reshape(merged, (-1,)), positions)",
         "xp.take(spread(base.values, flat(base.topology), base.topology.numel), positions)",
         "values of before the merge")),
    *mutants("adapter.spp",
        ("ADP-006", adapter_spp.spp_gradients, "spp.scale * kernels.sample", "kernels.sample", "gradients without s"),
        ("ADP-006", adapter_spp.spp_gradients, " * base.values", "", "gradients without W"),
        ("ADP-006", adapter_spp.spp_backward, "dx + dx_more", "dx", "dx of W alone")),
    *mutants("adapter.sparsepeft",
        ("ADP-007", adapter_sparsepeft.sparsepeft_gradients, "lora.scale * kernels.sample", "kernels.sample",
         "gradients without s"),
        ("ADP-007", adapter_sparsepeft.sparsepeft_backward, "dx + dx_more", "dx", "dx of W alone")),
    *(edited("ADP-009", op, adapter_base.check_scale, "0 < alpha", "1 <= alpha", "an alpha below 1 refused")
      for op in ("adapter.lora", "adapter.spp", "adapter.sparsepeft")),
]  # fmt: skip
