"""How inputs are refused: a wrong shape raises at once, a wrong value gives a code.

A traced function cannot raise because of a value. It changes nothing and returns a code; `refuse` raises outside.
"""

from typing import Any

__all__ = ["FINE", "NOT_FINITE", "TOO_MANY", "Refusal", "refuse"]

FINE, NOT_FINITE, TOO_MANY = 0, 1, 2
_CLAUSES = {
    NOT_FINITE: ("SEL-004", "a score or a gradient is infinite or NaN"),
    TOO_MANY: ("SEL-005", "more is to be chosen than there is, or fewer than nothing"),
}


class Refusal(ValueError):
    """The inputs break a clause of SPEC.md; `clause` is its id."""

    def __init__(self, clause: str, message: str) -> None:
        super().__init__(f"{clause}: {message}")
        self.clause = clause


def refuse(code: Any) -> None:
    """Raise the Refusal that a code of a traced function stands for; FINE passes.

    Raises:
        Refusal: the code is not FINE.
    """
    if int(code) != FINE:
        raise Refusal(*_CLAUSES[int(code)])
