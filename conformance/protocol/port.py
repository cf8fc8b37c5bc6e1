"""The interface of a program under judgement: operations by name, values in, values out.

A port is any object with `name` and `call`. The arrays it gets are its own copies, in the float dtype of the call.
"""

from typing import Any, Protocol

__all__ = ["Port", "Refused", "Unsupported"]


class Refused(Exception):
    """The program refuses the inputs and names the clause they break."""

    def __init__(self, clause: str, message: str = "") -> None:
        super().__init__(f"{clause}: {message}")
        self.clause = clause


class Unsupported(Exception):
    """The program does not offer the operation."""


class Port(Protocol):
    """A program under judgement."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def call(self, op: str, inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
        """Return the outputs of an operation of OPS.

        Absent inputs are None; float arrays have `dtype`, integers are int64 or uint64.

        Raises:
            Refused: the inputs break a clause.
            Unsupported: the operation is not offered.
        """
        ...
