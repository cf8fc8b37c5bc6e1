"""What all errors of the format have in common."""

from typing import ClassVar


class FormatError(Exception):
    """A file, folder or record that breaks a clause of the format; nothing of it is handed out (FMT-097).

    Attributes:
        clause: the clause id, for example ``"FMT-064"``.
    """

    clause: ClassVar[str] = "FMT-000"

    def __str__(self) -> str:
        return f"{self.clause}: {super().__str__()}"
