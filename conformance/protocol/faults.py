"""What a port did instead of answering, as exceptions."""

__all__ = ["Breach", "Crash", "Late", "PortError", "PortFault", "StartError"]


class PortFault(Exception):
    """What a port did instead of answering; `status` is the status of the case."""

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
    """What came was no answer of the protocol (PRT-001 to PRT-006)."""

    status = "protocol"


class StartError(Exception):
    """The program cannot be started, or does not introduce itself."""
