"""Mutants of steps and runs (TRN), of runs on held targets (CKP-008, QNT-008, QNT-011), and of windows of a text."""

from collections.abc import Callable
from typing import Any

from conformance.wrong.mutants.base import Mutant, Operation, Values, ids, mutant, mutants, right
from conformance.wrong.mutants.model import behind_silent_norms, settings


def ruled(**new: Any) -> Operation:
    """Return a run under a rule with other choices."""

    def f(a: Values) -> Values:
        run_settings = a["settings"]
        if run_settings.get("rule") is None:
            return right("train.run")(a)
        return right("train.run")(a | {"settings": run_settings | {"rule": run_settings["rule"] | new}})

    return f


def stepped(**new: Any) -> Operation:
    """Return a step with some settings replaced."""
    return lambda a: right("train.step")(a | {"settings": a["settings"] | new})


def of_every_target(**new: Callable[[Values], Any]) -> Operation:
    """Return a step from a state with some entries of every part replaced."""
    return lambda a: right("train.step")(
        a | {"parts": [part | {name: f(part) for name, f in new.items()} for part in a["parts"]]}
    )


def without_window(part: Values) -> Values:
    """Return a part without the sums of its window."""
    return {name: value for name, value in part.items() if not name.startswith("window")}


def last_gradient_alone(a: Values) -> Values:
    return right("train.step")(a | {"parts": [without_window(part) for part in a["parts"]]})


def of_a_window(**new: Callable[[Any], Any]) -> Operation:
    """Return a step that ends a gradient window, with some inputs of the window replaced if a part has them."""

    def f(a: Values) -> Values:
        parts = [part | {name: g(part[name]) for name, g in new.items() if name in part} for part in a["parts"]]
        return right("train.step")(a | {"parts": parts})

    return f


OP = "train.held"


def rounded_again(a: Values) -> Any:
    return "bfloat16" if a["held"] == "float16" else a["held"]


def always_exact(a: Values) -> Any:
    return None if a["codes"] is None else 1


def no_zeros(a: Values) -> Any:
    return None if a["zeros"] is None else {name: 0 * zeros for name, zeros in a["zeros"].items()}


def of_rows_above(a: Values) -> Any:
    return None if a["scales"] is None else {name: scales[::-1] for name, scales in a["scales"].items()}


MUTANTS: list[Mutant] = [
    *mutants("train.step",
        ("OPT-004", stepped(max_norm=0.0), "no clipping"),
        ("TRN-003", stepped(seed=99), "another seed"),
        ("EVT-001 GROW-002", stepped(preset="static"), "no events"),
        ("SCH-001 SCH-002", stepped(drop_fraction=0.9), "another drop fraction"),
        ("OPT-001", of_every_target(age=lambda p: p["age"] * 0), "ages start anew"),
        ("OPT-001", of_every_target(m=lambda p: p["m"] * 0), "first moments start anew"),
        ("DLT-003", of_every_target(delta_values=lambda p: p["delta_values"] * 0), "φ starts anew"),
        ("ADPT-002", of_every_target(budget=lambda p: p["budget"] + 1), "a budget of K + 1"),
        ("GRD-004 TRN-005", last_gradient_alone, "the last gradient alone"),
        ("GRD-004 TRN-005", of_a_window(window=abs), "|g| added up before the mean"),
        ("GRD-008", of_a_window(window_tokens=lambda sums: sums * 0), "tokens of the last step alone")),
    *mutants("train.run",
        ("TRN-005", settings(gradient_window=1), "the last gradient alone"),
        ("TRN-023", settings(event_batches=1), "an event that looks at its own step alone"),
        ("OPT-004", settings(max_norm=0.0), "no clipping"),
        ("DLT-004", settings(seed=99), "another seed"),
        ("EVT-004", settings(preset="static"), "no events"),
        ("SCH-004", settings(warmup=0, schedule="constant"), "a constant rate"),
        ("EVT-010", ruled(event_replaces_step=0), "a step where an event replaces it"),
        ("EVT-008", ruled(adapts="always"), "adapt where it is left out"),
        ("DLT-001 EVT-009", ruled(scope="matrix"), "scope taken for matrix"),
        ("OPT-003", settings(weight_decay=0.25), "decay unless told"),
        ("TRN-019 LYR-015", behind_silent_norms("train.run"), "RMSNorm gives 0 where squares overflow"),
        unchecked="TRN-007 TRN-008 TRN-003 TRN-005 RNG-002 TRN-017 TRN-018 EVT-012"),
    *mutants(OP,
        ("CKP-008", {"held": rounded_again}, "a base that is rounded once more"),
        ("CKP-008 QNT-008", {"exact": always_exact}, "slots that stay on the grid beside codes"),
        ("QNT-008", {"zeros": no_zeros}, "weights of codes without zero points"),
        ("QNT-008", {"scales": of_rows_above}, "scales of other rows"),
        ("QNT-011", {"exact": lambda a: None}, "layers that multiply by b + φ")),
    *mutants("text.training",
        ("TRN-003", {"step": lambda a: a["step"] + 1}, "steps from 0"),
        unchecked="TRN-003"),
    mutant("PRN-007", "text.calibration",
     lambda a: right("text.training")(a | {"step": 1, "rows": a["n"]}), "stream 2"),
    *mutants("text.evaluation",
        ("EVL-001", lambda a: {"starts": ids(i * a["tokens"] // a["windows"] for i in range(a["windows"]))},
         "n / windows"),
        unchecked="EVL-002"),
]  # fmt: skip
