"""Mutants of optimizers (OPT)."""

import numpy as np

from conformance.engine.parts import optimizers
from conformance.wrong.mutants.base import Mutant, Operation, Values, after, changed, edits, mutants, right


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


_KIND = "gradient.dtype.type"
_ROOT = "lambda age: math.sqrt(1.0 - self.beta2**age)"
_STEP = optimizers.AdamW.step
_MOMENTS = "(self, delta, gradient)\n    values = delta.values"
_DECAY = " * (1.0 - lr * self.weight_decay)"
_STEPPED = "values - step_size * (m / (xp.sqrt(v) / root + self.eps))"

MUTANTS: list[Mutant] = [
    *edits("adamw.step", "OPT-001", _STEP,
        ("        age,\n", "        xp.full_like(age, max([1, *age])),\n", "one step counter"),
        (_STEPPED, f"(delta.{_STEPPED}){_DECAY}", "decay after the update"),
        (_MOMENTS + _DECAY, _MOMENTS.replace("gradient", "gradient + self.weight_decay * delta.values"),
         "decay through the gradient"),
        ("xp.sqrt(v) / root + self.eps", "xp.sqrt(v + self.eps) / root", "eps inside the root"),
        ("xp.sqrt(v) / root + self.eps", "(xp.sqrt(v) + self.eps) / root", "eps before the correction")),
    *mutants("adamw.step",
        ("OPT-002", optimizers._moments, "(1.0 - settings.beta2)", f"({_KIND}(1) - {_KIND}(settings.beta2))",
         "1 − β₂ in binary32"),
        ("OPT-002", _STEP, _ROOT, f"lambda age: xp.sqrt(1 - {_KIND}(self.beta2) ** {_KIND}(age))",
         "corrections in binary32"),
        ("OPT-009", _STEP, _ROOT, "lambda age: math.sqrt(1.0 - float(xp.float32(self.beta2) ** xp.float32(age)))",
         "powers in binary32"),
        ("OPT-009", optimizers._per_age, "scalar(a)", "scalar(a + 1)", "powers of an age too many"),
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
