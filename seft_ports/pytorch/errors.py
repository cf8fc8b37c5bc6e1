"""What is refused, by the clause of SPEC.md that refuses it."""

__all__ = ["SeftError"]


class SeftError(ValueError):
    """An input breaks a clause.

    Attributes:
        clause: its id in SPEC.md.
    """

    def __init__(self, clause: str, message: str) -> None:
        super().__init__(f"{clause}: {message}")
        self.clause = clause
