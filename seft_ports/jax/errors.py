"""How inputs are refused: at once where shapes tell, by a code where values do.

A traced function cannot raise. It returns a code, changes nothing, and `refuse` raises outside.
"""

from typing import Any

__all__ = ["FINE", "NOT_FINITE", "TOO_MANY", "Refusal", "refuse"]

FINE, NOT_FINITE, TOO_MANY = 0, 1, 2
_CLAUSES = {
    NOT_FINITE: ("SEL-004", "a score or a gradient is infinite or NaN"),
    TOO_MANY: ("SEL-005", "more is to be chosen than there is, or fewer than nothing"),
}


class Refusal(ValueError):
    """The inputs break a clause of SPEC.md."""

    def __init__(self, clause: str, message: str) -> None:
        super().__init__(f"{clause}: {message}")
        self.clause = clause


def refuse(code: Any) -> None:
    """Raise what a code of a traced function means; FINE passes.

    Raises:
        Refusal: the code is not FINE.
    """
    if int(code) != FINE:
        raise Refusal(*_CLAUSES[int(code)])
