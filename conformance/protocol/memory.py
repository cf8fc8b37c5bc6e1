"""A limit on the memory of a port while it reads a file."""

from pathlib import Path

try:
    import resource
except ImportError:  # Windows has no such module
    resource = None  # type: ignore[assignment]

__all__ = ["AddressSpace"]

_FILE_OPS_MEMORY = 2 << 30
"""Bytes of address space that an operation on files may use beyond what the port uses when the operation starts."""


class AddressSpace:
    """Limits the memory of a process inside a with block, so that a forged size in a file cannot exhaust the memory.

    There is no limit if pid is None, or if the system has no prlimit.
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
