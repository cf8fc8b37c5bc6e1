"""Mutants of runs on targets that stay in 16 bits or codes (CKP-008, QNT-008, QNT-011)."""

from typing import Any

from conformance.wrong.mutants.base import Mutant, Values, mutants

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
    *mutants(OP,
        ("CKP-008", {"held": rounded_again}, "a base that is rounded once more"),
        ("CKP-008 QNT-008", {"exact": always_exact}, "slots that stay on the grid beside codes"),
        ("QNT-008", {"zeros": no_zeros}, "weights of codes without zero points"),
        ("QNT-008", {"scales": of_rows_above}, "scales of other rows"),
        ("QNT-011", {"exact": lambda a: None}, "layers that multiply by b + φ")),
]  # fmt: skip
