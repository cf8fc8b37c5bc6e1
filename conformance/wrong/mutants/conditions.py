"""Adapters, kernels, picks, optimizers, events and warnings with one condition of a clause forgotten.

A condition that a clause refuses by is `forgotten`: some case breaks it and no other. One that it computes by is
`edited` in the engine.
"""

from typing import Any

import numpy as np

from conformance.engine.parts import (
    adapter_base,
    adapter_lora,
    adapter_sparsepeft,
    adapter_spp,
    counter,
    diagnose,
    event_record,
    kernels,
    optimizers,
    sampling,
    training,
)
from conformance.wrong.mutants.base import Mutant, Values, changed, edited, forgotten, mutant, reset

__all__ = ["MUTANTS"]

Rows = tuple[tuple[str, str, Any, str, str, str], ...]
_BINARY32 = "float(__import__('numpy').float32({}))"


def _rank(a: Values) -> Any:
    return a["rank"] if "c" in a else len(a["a"])


def _other(a: Values) -> Any:
    return a["c"] if "c" in a else a["b"]


_FACTORS: dict[str, Any] = {
    "a_narrow_A": lambda a: a["a"].shape[1] < a["in"],
    "a_wide_A": lambda a: a["a"].shape[1] > a["in"],
    "a_short_other_factor": lambda a: len(_other(a)) < a["out"],
    "a_long_other_factor": lambda a: len(_other(a)) > a["out"],
    "a_rank_of_0": lambda a: _rank(a) == 0 and not ("c" in a and len(a["a"]) == 0),
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


_LOGITS: dict[str, Any] = {
    f"{what}_{where}": lambda a, what=what, greedy=greedy: (
        (a["temperature"] == 0) is greedy and bool((a["logits"] == what).any() or (what is None and _nan(a["logits"])))
    )
    for where, greedy in (("picked_from", True), ("drawn_from", False))
    for what in (None, np.inf, -np.inf)
}
_SAMPLING: dict[str, Any] = _LOGITS | {
    "a_temperature_below_0": lambda a: a["temperature"] < 0,
    "an_infinite_temperature": lambda a: a["temperature"] == np.inf,
    "a_temperature_that_is_NaN": lambda a: _nan(a["temperature"]),
    "a_top-k_of_0": lambda a: a["top_k"] == 0,
    "a_top-k_below_0": lambda a: (a["top_k"] or 0) < 0,
    "a_top-p_of_0": lambda a: a["top_p"] == 0,
    "a_top-p_below_0": lambda a: (a["top_p"] or 0) < 0,
    "a_top-p_above_1": lambda a: (a["top_p"] or 0) > 1,
    "a_top-p_that_is_NaN": lambda a: a["top_p"] is not None and _nan(a["top_p"]),
}


def _nan(x: Any) -> bool:
    return bool(np.isnan(x).any())


_SUMS = "sums = np.cumsum(weights)"
_PICK: Rows = tuple(
    ("generate.pick", clauses, sampling.pick, old, new, flaw)
    for clauses, old, new, flaw in (
        ("GEN-004", "(scores[ids] - scores[ids[0]])", "(scores[ids] - scores[0])", "the first logit subtracted"),
        ("GEN-004", "(scores, sampling.top_k)", "(scores, sampling.top_k or 50)", "a top-k of 50 unless told"),
        ("GEN-004", "sums >= sampling.top_p * sums[-1]", "sums > sampling.top_p * sums[-1]", "> for ≥ in top-p"),
        ("GEN-004", "sampling.top_p * sums[-1]", "sampling.top_p", "top-p of weights that do not add up to 1"),
        ("GEN-004", "scores = binary64(logits)", "scores = np.asarray(logits)", "logits in the compute dtype"),
        ("GEN-005", "sums > u * sums[n_kept - 1]", "sums > u * sums[-1]", "u times C_m"),
        ("GEN-005", "sums > u *", "sums > (1 - u) *", "1 − u"),
        ("GEN-005", "STREAM_PICKS), [number]", "STREAM_PICKS, number), [0]", "a key a token"),
        ("GEN-006", "not np.isfinite(scores).all()", "np.isnan(scores).any()", "infinite logits"),
    )
)
_DRAWN: Rows = (
    (
        "generate.pick",
        "GEN-005",
        counter.uniform,
        ">> np.uint64(11)).astype(np.float64) * 2.0**-53",
        ">> np.uint64(40)).astype(np.float64) * 2.0**-24",
        "a draw cut to 24 bits",
    ),
    (
        "generate.pick",
        "GEN-005",
        counter.uniform,
        "astype(np.float64) * 2.0**-53",
        "astype(np.float32).astype(np.float64) * 2.0**-53",
        "a draw rounded to binary32",
    ),
    (
        "generate.pick",
        "GEN-004",
        sampling._largest_first,
        'np.argsort(-scores[ids], kind="stable")',
        'np.argsort(scores[ids], kind="stable")[::-1]',
        "equals by falling id",
    ),
    (
        "adapter.initial",
        "ADP-002",
        adapter_base.uniform_factor,
        "2.0 * draws - 1.0",
        "2.0 * draws.astype('float32') - 1.0",
        "draws in binary32",
    ),
    (
        "adapter.initial",
        "ADP-002",
        adapter_base.uniform_factor,
        "seed, STREAM_FACTORS, matrix",
        "seed, matrix, STREAM_FACTORS",
        "words exchanged",
    ),
)
_SAMPLING_CHECKS: Rows = tuple(
    ("generate.pick", "GEN-006", sampling.Sampling.__post_init__, old, new, flaw)
    for old, new, flaw in (
        ("0 <= self.temperature", "0 < self.temperature", "a temperature of 0 refused"),
        ("self.top_k < 1", "self.top_k < 2", "a top-k of 1 refused"),
        ("0 < self.top_p <= 1", "0 < self.top_p < 1", "a top-p of 1 refused"),
    )
)
_ADAPTERS: Rows = (
    ("adapter.lora", "ADP-001", adapter_lora.lora_forward, "lora.scale * (u @", "(u @", "y without s"),
    ("adapter.lora", "ADP-001", adapter_lora.lora_backward, "du = lora.scale * ", "du = ", "dA and dx without s"),
    ("adapter.lora", "ADP-001", adapter_lora.lora_backward, "db = lora.scale * ", "db = ", "dB without s"),
    (
        "adapter.lora",
        "ADP-001",
        adapter_lora.lora_backward,
        "dx + xp.reshape(du @ lora.a, dx.shape)",
        "dx",
        "dx of W alone",
    ),
    ("adapter.lora", "ADP-004", adapter_lora.lora_merge, "lora.scale * (", "(", "a merge without s"),
    ("adapter.lora_star", "ADP-005", adapter_lora.lora_star, "[0] != base", "[0] > base", "fewer weights than S has"),
    ("adapter.lora_star", "ADP-005", adapter_lora.lora_star, "[0] != base", "[0] < base", "more weights than S has"),
    (
        "adapter.lora_star",
        "ADP-005",
        adapter_lora.lora_star,
        "xp.take(xp.reshape(merged, (-1,)), positions)",
        "xp.take(spread(base.values, flat(base.topology), base.topology.numel), positions)",
        "values of before the merge",
    ),
    (
        "adapter.spp",
        "ADP-006",
        adapter_spp.spp_backward,
        "spp.scale * kernels.sample",
        "kernels.sample",
        "gradients without s",
    ),
    ("adapter.spp", "ADP-006", adapter_spp.spp_backward, " * base.values", "", "gradients without W"),
    ("adapter.spp", "ADP-006", adapter_spp.spp_backward, "dx + dx_more", "dx", "dx of W alone"),
    (
        "adapter.sparsepeft",
        "ADP-007",
        adapter_sparsepeft.sparsepeft_backward,
        "lora.scale * kernels.sample",
        "kernels.sample",
        "gradients without s",
    ),
    ("adapter.sparsepeft", "ADP-007", adapter_sparsepeft.sparsepeft_backward, "dx + dx_more", "dx", "dx of W alone"),
    *(
        (f"adapter.{kind}", "ADP-009", adapter_base.check_scale, "0 < alpha", "1 <= alpha", "an alpha below 1 refused")
        for kind in ("lora", "spp", "sparsepeft")
    ),
)
_KERNELS: Rows = (
    (
        "kernel.store_dense",
        "KRN-012",
        kernels.locate,
        "array_namespace(slots).take(flat(topology), slots)",
        "slots",
        "slots taken for positions",
    ),
    (
        "kernel.store",
        "KRN-012",
        kernels.store,
        "xp.take(xp.take(values, order), source)",
        "xp.take(values, source)",
        "values in the order of places",
    ),
    (
        "kernel.exceeding",
        "KRN-014",
        kernels.exceeding,
        "~(xp.abs(values) <= least)",
        "~(xp.abs(values) <= least) & (values != -xp.inf)",
        "−∞ left out",
    ),
    ("kernel.exceeding", "KRN-014", kernels.exceeding, "[0], xp.int64)", "[0][::-1], xp.int64)", "descending"),
)
_ADAMW, _SPIEL = optimizers.AdamW.step, optimizers.SpielAdamW.step
_SGD, _SM3 = optimizers.Sgd.step, optimizers.Sm3.step
_OPTIMIZERS: Rows = (
    (
        "optimizer.step",
        "OPT-001",
        _ADAMW,
        "1.0 - lr * self.weight_decay",
        "1.0 - self.weight_decay",
        "decay without lr",
    ),
    ("optimizer.step", "OPT-001", _ADAMW, "lr / (1.0 - self.beta1**age)", "lr", "no c₁"),
    ("optimizer.step", "OPT-006", _SPIEL, "(lr * self.weight_decay) * values", "self.weight_decay * values", "no lr"),
    ("optimizer.step", "OPT-006", _SPIEL, " * c1) / c2", ") / c2", "no c₁ in spiel-adamw"),
    ("optimizer.step", "OPT-006", _SPIEL, "(xp.sqrt(v) + self.eps) * c1) / c2", "xp.sqrt(v) * c1) / c2", "no eps"),
    ("optimizer.step", "OPT-007", _SGD, "+ gradient", "+ (1.0 - self.momentum) * gradient", "1 − μ times g"),
    ("optimizer.step", "OPT-007", _SGD, "values - lr * u", "values - lr * gradient", "no momentum"),
    ("optimizer.step", "OPT-008", _SM3, "xp.sqrt(nu + self.eps)", "(xp.sqrt(nu) + self.eps)", "eps outside the root"),
    ("optimizer.step", "OPT-008", _SM3, "self.weight_decay) * values", "self.weight_decay) * delta.values", "old φ"),
    ("optimizer.step", "OPT-008", _SM3, '"columns": _raised(c, column, nu)', '"columns": c', "columns that stay"),
    *(
        (op, "OPT-002", step, old, old.replace(scalar, _BINARY32.format(scalar)), f"{name} in binary32")
        for op, step, old, scalar, name in (
            ("adamw.step", _ADAMW, "1.0 - lr * self.weight_decay", "lr * self.weight_decay", "1 − lr · weight_decay"),
            ("adamw.step", _ADAMW, "+ self.eps", "self.eps", "eps"),
            ("optimizer.step", _SPIEL, "- lr * (m", "lr", "lr of spiel-adamw"),
            ("optimizer.step", _SPIEL, "- (lr * self.weight_decay)", "lr * self.weight_decay", "decay of spiel-adamw"),
            ("optimizer.step", _SGD, "- lr * u", "lr", "lr of sgd"),
            ("optimizer.step", _SGD, "self.momentum * delta", "self.momentum", "μ"),
            ("optimizer.step", _SM3, "- lr * (g", "lr", "lr of sm3"),
            ("optimizer.step", _SM3, "nu + self.eps", "self.eps", "eps of sm3"),
        )
    ),
)
_STEP = training.train_step
_CLIPPED = "optimize(target.delta, found.at[name] * factor, lr)"
_NORM = "clip_factor(norm * norm, settings.max_norm)"
_RUNS: Rows = (
    ("train.step", "OPT-004", _STEP, _NORM, "1.0", "never clips"),
    (
        "train.step",
        "OPT-004",
        _STEP,
        _CLIPPED,
        _CLIPPED.replace("factor", "clip_factor(float((found.at[name] ** 2).sum()), settings.max_norm)"),
        "the norm of each matrix",
    ),
    *(
        (
            "train.run",
            "EVT-004",
            training.finish,
            "settings.steps, state.weights, ranks)",
            other,
            f"the last pass sees {name}",
        )
        for other, name in (
            ("1, state.weights, ranks)", "the data of the first step"),
            ("settings.steps - 1, state.weights, ranks)", "the data of the step before"),
            ("settings.steps + 1, state.weights, ranks)", "the data of a step that is not taken"),
            ("settings.steps, state.weights, ranks)[:1]", "the first micro-batch"),
        )
    ),
)
_RECORD: Rows = tuple(
    ("update.event", "TRN-009", event_record.record_of, old, new, flaw)
    for old, new, flaw in (
        (
            "grown=int(event.grown.shape[0])",
            "grown=int(event.grown.shape[0] + event.cancelled.shape[0])",
            "grown again",
        ),
        ("pruned=int(event.pruned.shape[0])", "pruned=int(event.left.shape[0])", "pruned slots not counted"),
        ("inside(event.grown, flat(part.base.topology))", "inside(event.grown, stored)", "reactivated after it"),
        ("max(0, delta_budget - slots_before)", "delta_budget - slots_before", "refilled below 0"),
        ("max(0, delta_budget - slots_before)", "max(0, delta_budget - n_slots)", "refilled after it"),
        ("slots=n_slots", "slots=slots_before", "slots before it"),
        ("n_slots - inside(eta, stored)", "n_slots", "a support that counts slots of the base twice"),
        ("n_stored + inside(eta, lost)", "n_stored", "those that grew back not at start"),
    )
)
_SEEDS: Rows = tuple(
    ("update.event", "DLT-006", function, old, new, flaw)
    for function, old, new, flaw in (
        (optimizers._adamw_seeds, "mean * (1.0 - settings.beta1**steps)", "mean", "m of a mean"),
        (optimizers._adamw_seeds, "square * (1.0 - settings.beta2**steps)", "square", "v of a mean"),
        (optimizers._adamw_seeds, "square * (", "mean * mean * (", "ḡ² for square"),
        (optimizers.AdamW.seeds, "steps, steps)", "steps, steps - 1)", "age A − 1 for adamw"),
        (optimizers.SpielAdamW.seeds, "steps - 1)", "steps)", "age A for spiel-adamw"),
        (optimizers.SpielAdamW.seeds, "steps - 1)", "max(steps - 1, 1))", "an age of at least 1"),
        (optimizers.Sgd.seeds, " / (1.0 - self.momentum)", "", "u without 1 / (1 − μ)"),
    )
)
_WARNED: Rows = tuple(
    ("run.warnings", "TRN-011", function, old, new, flaw)
    for function, old, new, flaw in (
        (diagnose._jump, "len(before) < BEFORE_EVENT", "not before", "early events judged"),
        (diagnose._jump, "len(before) < BEFORE_EVENT", "len(before) <= BEFORE_EVENT", "the fifth step too early"),
        (diagnose._jump, "rise > spread and ", "", "a jump within the spread"),
        (diagnose._jump, "rise > spread", "rise >= spread", "a jump as large as the spread"),
        (diagnose._jump, " and rise > JUMP * largest", "", "a jump of less than 5 %"),
        (diagnose._jump, "rise > JUMP", "rise >= JUMP", "a jump of 5 %"),
        (diagnose._jump, "JUMP * largest", "JUMP * before[-1]", "5 % of the last loss"),
        (diagnose._jump, "rise = loss - largest", "rise = loss - before[-1]", "a jump from the last loss"),
        (diagnose.Watch._divergence, "mean - self._lowest_mean > RISE", "mean - self._lowest_mean >= RISE", "20 %"),
        (diagnose.Watch._divergence, "RISE * self._lowest_mean", "RISE * mean", "20 % of the mean itself"),
        (diagnose.Watch._divergence, "mean < self._lowest_mean", "mean <= self._lowest_mean", "as low, and new"),
        (diagnose.Watch._divergence, "self._told_of_lowest or ", "", "divergence at every step"),
        (diagnose.Watch.add_step, "len(self._recent) == MEAN_OF", "len(self._recent) > 8", "means of nine"),
        (diagnose.Watch.add_event, "support <= self.budget", "support < self.budget", "a budget that is met"),
        (diagnose.Watch.end, "stored <= self.budget", "stored < self.budget", "as dense at the end"),
    )
)
_LIMITS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("4 steps up to an event", {"BEFORE_EVENT": 4}),
    ("6 steps up to an event", {"BEFORE_EVENT": 6}),
    ("4 %", {"JUMP": 0.04}),
    ("6 %", {"JUMP": 0.06}),
    ("19 %", {"RISE": 0.19}),
    ("21 %", {"RISE": 0.21}),
    ("means of 11 steps", {"MEAN_OF": 11}),
)


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("None", "NaN"): breaks for name, breaks in values.items()}


MUTANTS: list[Mutant] = [
    *(m for op in ("lora", "sparsepeft") for m in forgotten(f"adapter.{op}", "ADP-009", **_FACTORS, **_RANKS)),
    *forgotten("adapter.spp", "ADP-009", **_FACTORS, **_BANDS),
    *forgotten("kernel.sparse", "KRN-009", **_SPARSE),
    *forgotten("kernel.sparse", "KRN-010", **{f"the_dtype_of_{n}": _odd(n) for n in ("x", "dy", "values")}),
    *forgotten("kernel.dense", "KRN-009", **_OPERANDS),
    *forgotten("kernel.dense", "KRN-010", **{f"the_dtype_of_{n}": _odd(n) for n in ("x", "dy", "weight")}),
    *forgotten("kernel.store", "KRN-009", **_STORED),
    *forgotten("kernel.store", "KRN-012", **_SLOTS),
    *forgotten("kernel.store_dense", "KRN-009", **_STORED, **_SHAPE),
    *forgotten("kernel.store_dense", "KRN-012", **_SLOTS),
    *forgotten("generate.pick", "GEN-006", **_shown(_SAMPLING)),
    mutant("GEN-006", "generate.pick", changed("generate.pick", top_k=lambda a: a["top_k"] or None), "0 taken for all"),
    *(
        edited(clauses, op, function, old, new, flaw)
        for rows in (_PICK, _DRAWN, _SAMPLING_CHECKS, _ADAPTERS, _KERNELS, _OPTIMIZERS, _RUNS, _RECORD, _SEEDS, _WARNED)
        for op, clauses, function, old, new, flaw in rows
    ),
    *(reset("TRN-011", "run.warnings", diagnose, flaw, **values) for flaw, values in _LIMITS),
]
