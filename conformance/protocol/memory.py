"""The memory that a port may take while it reads a file."""

from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

__all__ = ["AddressSpace"]

_FILE_OPS_MEMORY = 2 << 30
"""Bytes of address space that an operation on files may take beyond those that the port has."""


class AddressSpace:
    """Limits the memory of a process inside a with block, so that a forged size in a file cannot take all there is.

    pid None, and a system without prlimit, set no limit.
    """

    def __init__(self, pid: int | None) -> None:
        self.pid, self.before = pid, (-1, -1)

    def __enter__(self) -> None:
        if self.pid is None or not hasattr(resource, "prlimit"):
            return
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[0])
            self.before = resource.prlimit(self.pid, resource.RLIMIT_AS)
            limit = pages * resource.getpagesize() + _FILE_OPS_MEMORY
            resource.prlimit(self.pid, resource.RLIMIT_AS, (limit, self.before[1]))
        except (OSError, ValueError, IndexError):
            self.pid = None

    def __exit__(self, *_: object) -> None:
        if self.pid is None or not hasattr(resource, "prlimit"):
            return
        try:
            resource.prlimit(self.pid, resource.RLIMIT_AS, self.before)
        except (OSError, ValueError):
            self.pid = None
