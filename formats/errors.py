"""Errors of the file format: `error.clause` names the broken clause of SPEC.md.

Three kinds have a class of their own, because a caller can react to them: choose another destination, a higher limit,
another target.
"""


class FormatError(Exception):
    """A file, folder, record or option that breaks a clause of the format; nothing of it is handed out (FMT-097).

    Attributes:
        clause: the clause id, for example ``"FMT-064"``.
        message: what is wrong and what to do, without the id.
    """

    def __init__(self, clause: str, message: str) -> None:
        # Exception keeps both, because pickle and copy call the class with what it keeps
        super().__init__(clause, message)
        self.clause, self.message = clause, message

    def __str__(self) -> str:
        return f"{self.clause}: {self.message}"


class DestinationExists(FormatError):
    """A destination that is already there (FMT-110); it is left as it was."""


class ExpansionTooLarge(FormatError):
    """A tensor that would take more memory than the caller allows (FMT-098); a higher limit reads it."""


class CannotHold(FormatError):
    """A tensor or checkpoint that the target of a conversion cannot hold (FMT-154); another target may."""
