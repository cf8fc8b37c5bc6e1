"""The hello of a port: who it is, and what it offers (PRT-004)."""

from typing import Any

from conformance.protocol.faults import Breach

__all__ = ["PROTOCOL", "Hello"]

PROTOCOL = 1
"""The version of the protocol."""


class Hello:
    """The first message of a port, which describes it (PRT-004).

    Attributes:
        port: name, version, language and whatever else the port reports.
        ops: for each operation, the numeric classes in which it is offered.
        flags: deterministic, files, zstd.
    """

    def __init__(self, message: dict[str, Any]) -> None:
        port = message.get("port")
        if message.get("type") != "hello" or message.get("protocol") != PROTOCOL or not isinstance(port, dict):
            raise Breach(f"its hello is no hello of protocol {PROTOCOL}: {str(message)[:200]}")
        ops = message.get("ops")
        if not isinstance(ops, dict) or not all(isinstance(v, list) for v in ops.values()):
            raise Breach("its hello has no ops, an object of operation to list of numeric classes")
        if not all(isinstance(name, str) for names in ops.values() for name in names):
            raise Breach("its hello has a numeric class that is no text")
        self.port: dict[str, Any] = port
        self.ops: dict[str, list[str]] = ops
        flags = message.get("flags") or {}
        if not isinstance(flags, dict):
            raise Breach("its hello has flags that are no object")
        self.flags: dict[str, Any] = flags

    @property
    def name(self) -> str:
        """The name of the port in reports."""
        version = self.port.get("version")
        return str(self.port.get("name", "port")) + (f" {version}" if version else "")

    @property
    def files(self) -> bool:
        """Whether the port takes arrays in files, and may answer with arrays in files (PRT-014)."""
        return self.flags.get("files") is True

    @property
    def deterministic(self) -> bool:
        """Whether the port promises the same bytes for the same call (PRT-013)."""
        return self.flags.get("deterministic") is True

    @property
    def zstd(self) -> bool:
        """Whether the port reads compressed files; true unless its hello says false (PRT-006)."""
        return self.flags.get("zstd") is not False
