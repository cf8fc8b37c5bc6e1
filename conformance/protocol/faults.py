"""Exceptions for a port that fails to answer."""

__all__ = ["Breach", "Crash", "Late", "PortError", "PortFault", "StartError"]


class PortFault(Exception):
    """A port failed to answer; `status` becomes the status of the case."""

    status = "error"
    lost = True
    """whether the process must be started again"""


class PortError(PortFault):
    """The port caught an error of its own and says so (PRT-005)."""

    status, lost = "error", False


class Crash(PortFault):
    """The process ended."""

    status = "crash"


class Late(PortFault):
    """No whole answer came in time (PRT-009)."""

    status = "timeout"


class Breach(PortFault):
    """The port sent something else than an answer of the protocol (PRT-001 to PRT-006)."""

    status = "protocol"


class StartError(Exception):
    """The program cannot be started, or sends no valid hello."""
