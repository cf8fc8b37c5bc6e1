"""The error of this port: it names the clause of SPEC.md that an input breaks."""

__all__ = ["SeftError"]


class SeftError(ValueError):
    """An input breaks a clause.

    Attributes:
        clause: its id in SPEC.md.
    """

    def __init__(self, clause: str, message: str) -> None:
        super().__init__(f"{clause}: {message}")
        self.clause = clause
