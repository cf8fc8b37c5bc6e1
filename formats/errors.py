"""Errors of the file format: `error.clause` names the broken clause of SPEC.md.

Three subclasses exist because a caller can react to them: choose another destination, a higher limit, another target.
A fourth, `step_files.Hole`, stands for versions that do not follow each other.
"""


class FormatError(Exception):
    """A file, folder, record or option breaks a clause of the format; no part of it is returned (FMT-097).

    Attributes:
        clause: the clause id, for example ``"FMT-064"``.
        message: what is wrong and what to do, without the id.
    """

    def __init__(self, clause: str, message: str) -> None:
        # Exception gets both, because pickle and copy rebuild an error by calling its class with args
        super().__init__(clause, message)
        self.clause, self.message = clause, message

    def __str__(self) -> str:
        return f"{self.clause}: {self.message}"


class DestinationExists(FormatError):
    """The destination exists already (FMT-110); it is left as it was."""


class ExpansionTooLarge(FormatError):
    """Expanded tensors would take more memory than the caller allows (FMT-098); a higher limit reads them."""


class CannotHold(FormatError):
    """The target of a conversion cannot hold a tensor or checkpoint (FMT-154); another target may."""
