"""Mutants of optimizers (OPT)."""

import numpy as np

from conformance.wrong.mutants.base import Mutant, Operation, Values, after, changed, mutants, right


def adamw(flaw: str = "") -> Operation:
    def op(a: Values) -> Values:
        kind = a["values"].dtype.type
        beta1 = 0.9 if a["beta1"] is None else a["beta1"]
        beta2 = 0.999 if a["beta2"] is None else a["beta2"]
        eps = 1e-8 if a["eps"] is None else a["eps"]
        decay = a["weight_decay"] or 0.0
        g, lr, values = a["gradient"], a["lr"], a["values"]
        age = a["age"] + 1
        steps = np.full_like(age, age.max(initial=1)) if flaw == "global step" else age
        if flaw == "an age too many":
            steps = age + 1
        if flaw != "decay after":
            values = values * kind(1 - lr * decay)
        if flaw == "coupled decay":
            g, values = g + kind(decay) * a["values"], a["values"]
        rest1, rest2 = kind(1 - beta1), kind(1 - beta2)
        if flaw == "1 - beta in the run's dtype":
            rest1, rest2 = kind(1) - kind(beta1), kind(1) - kind(beta2)
        m = kind(beta1) * a["m"] + rest1 * g
        v = kind(beta2) * a["v"] + rest2 * (g * g)
        if flaw == "corrections in the run's dtype":
            c1, c2 = 1 - kind(beta1) ** steps.astype(kind), np.sqrt(1 - kind(beta2) ** steps.astype(kind))
            size = kind(lr) / c1
        elif flaw == "powers in binary32":
            p1, p2 = (np.float32(b) ** steps.astype(np.float32) for b in (beta1, beta2))
            c2, size = np.sqrt(1 - p2.astype(float)).astype(kind), (lr / (1 - p1.astype(float))).astype(kind)
        else:
            c2 = np.sqrt(1 - beta2 ** steps.astype(float)).astype(kind)
            size = (lr / (1 - beta1 ** steps.astype(float))).astype(kind)
        if flaw == "eps inside the root":
            down = np.sqrt(v + kind(eps)) / c2
        elif flaw == "eps before the correction":
            down = (np.sqrt(v) + kind(eps)) / c2
        else:
            down = np.sqrt(v) / c2 + kind(eps)
        values = values - size * (m / down)
        if flaw == "decay after":
            values = values * kind(1 - lr * decay)
        return {"values": values, "m": m, "v": v, "age": age}

    return op


def without_decay(kind: str) -> Operation:
    """Return optimizers of which one has no weight decay."""
    op = changed("optimizer.step", weight_decay=lambda _: 0.0)
    return lambda a: op(a) if a["kind"] == kind else right("optimizer.step")(a)


def of_kind(kind: str, values: object) -> Operation:
    """Return optimizers of which one has φ computed by `values` from outputs and inputs."""
    return after("optimizer.step", lambda out, a: {"values": values(out, a)} if a["kind"] == kind else {})  # type: ignore[operator]


def nesterov(out: Values, a: Values) -> object:
    kind = a["values"].dtype.type
    mu = 0.9 if a["momentum"] is None else a["momentum"]
    return out["values"] - kind(a["lr"]) * (kind(mu) * out["u"] + a["gradient"] - out["u"])


def one_accumulator(a: Values) -> Values:
    if a["kind"] != "sm3":
        return right("optimizer.step")(a)
    return right("optimizer.step")(a | {"columns": a["columns"] + a["rows"].max(initial=0)})


def sums_for_largest(out: Values, a: Values) -> Values:
    return {"rows": a["rows"] + (out["rows"] - a["rows"]) * 2} if a["kind"] == "sm3" else {}


def first_step_by_the_run(a: Values) -> Values:
    """Correct the bias of moments as if every slot were nine steps older."""
    out = right("adamw.step")(a | {"age": a["age"] + 9})
    return out | {"age": a["age"] + 1}


def spiel_of_an_older_slot(a: Values) -> Values:
    """Keep the right moments, but correct their bias as if every slot were a step older."""
    out = right("optimizer.step")(a)
    if a["kind"] != "spiel-adamw":
        return out
    older, kind = a["age"] + 2, a["values"].dtype.type
    c1, c2 = 1 - a["beta1"] ** older.astype(float), np.sqrt(1 - a["beta2"] ** older.astype(float))
    down = (np.sqrt(out["v"]) + kind(a["eps"])) * c1.astype(kind) / c2.astype(kind)
    values = a["values"] - kind(a["lr"]) * (out["m"] / down)
    return out | {"values": values - kind(a["lr"] * a["weight_decay"]) * values}


MUTANTS: list[Mutant] = [
    *mutants("adamw.step",
        ("OPT-001", adamw("global step"), "one step counter"),
        ("OPT-001", adamw("decay after"), "decay after the update"),
        ("OPT-001", adamw("coupled decay"), "decay through the gradient"),
        ("OPT-001", adamw("eps inside the root"), "eps inside the root"),
        ("OPT-001", adamw("eps before the correction"), "eps before the correction"),
        ("OPT-002", adamw("1 - beta in the run's dtype"), "1 − β₂ in binary32"),
        ("OPT-002", adamw("corrections in the run's dtype"), "corrections in binary32"),
        ("OPT-009", adamw("powers in binary32"), "powers in binary32"),
        ("OPT-009", adamw("an age too many"), "powers of an age too many"),
        ("OPT-003", {"beta2": lambda a: a["beta2"] or 0.99}, "β₂ of 0.99 unless told"),
        ("OPT-005", first_step_by_the_run, "a new slot corrected by the number of the step")),
    *mutants("optimizer.step",
        ("OPT-009", spiel_of_an_older_slot, "powers of an age too many"),
        ("OPT-001",
         lambda a: right("optimizer.step")(a | {"kind": "spiel-adamw" if a["kind"] == "adamw" else a["kind"]}),
         "spiel-adamw for adamw"),
        ("OPT-006",
         lambda a: right("optimizer.step")(a | {"kind": "adamw" if a["kind"] == "spiel-adamw" else a["kind"]}),
         "adamw for spiel-adamw"),
        ("OPT-007", of_kind("sgd", nesterov), "momentum ahead of the step"),
        ("OPT-007", without_decay("sgd"), "sgd without decay"),
        ("OPT-008", one_accumulator, "rows alone"),
        ("OPT-008", sums_for_largest, "accumulators summed")),
    *mutants("adamw.clip",
        ("OPT-004", lambda a: {"factor": a["max_norm"] / (a["norm"] + 1e-6)}, "small gradients scaled up"),
        ("OPT-004", lambda a: {"factor": min(1.0, a["max_norm"] / (a["norm"] or 1.0))}, "no 1e-6")),
]  # fmt: skip

CONTROLS = (Mutant("adamw.step", "none", (), adamw()),)
"""Rewritten operations without a flaw, which every case must pass."""
