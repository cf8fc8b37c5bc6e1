"""What a port writes to standard error, without the middle where it is long: the first lines often hold the cause."""

__all__ = ["Ends"]

KEPT = 1 << 13
"""Bytes that are kept from the beginning, and as many from the end."""
SHOWN = 6
"""Lines that are shown from the beginning, and as many from the end."""


class Ends:
    """The beginning and the end of what was written, and how many bytes stood between them."""

    def __init__(self) -> None:
        self.first, self.last, self.lost = b"", b"", 0

    def add(self, more: bytes) -> None:
        """Append what was written next."""
        room = KEPT - len(self.first)
        rest = self.last + more[room:]
        self.first += more[:room]
        self.last = rest[-KEPT:]
        self.lost += len(rest) - len(self.last)

    @property
    def text(self) -> str:
        """The text that is kept, with a line that counts the bytes left out."""
        between = f"\n[{self.lost} bytes left out]\n".encode() if self.lost else b""
        return (self.first + between + self.last).decode("utf-8", "replace")

    def lines(self) -> list[str]:
        """Return the first lines and the last, and between them how many were left out."""
        lines = self.text.strip().splitlines()
        left_out = len(lines) - 2 * SHOWN
        if left_out > 1:
            more = f" and {self.lost} bytes" if self.lost else ""
            lines[SHOWN:-SHOWN] = [f"[{left_out} lines{more} left out]"]
        return lines
