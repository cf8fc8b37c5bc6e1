"""Keeps the beginning and the end of a long standard error, because the first lines often name the cause."""

__all__ = ["Ends"]

KEPT = 1 << 13
"""Number of bytes kept of the beginning; as many are kept of the end."""
SHOWN = 6
"""Number of lines shown of the beginning; as many are shown of the end."""


class Ends:
    """The beginning and the end of a stream, and the number of bytes between them that were dropped."""

    def __init__(self) -> None:
        self.first, self.last, self.lost = b"", b"", 0

    def add(self, more: bytes) -> None:
        """Append the next bytes of the stream."""
        room = KEPT - len(self.first)
        rest = self.last + more[room:]
        self.first += more[:room]
        self.last = rest[-KEPT:]
        self.lost += len(rest) - len(self.last)

    @property
    def text(self) -> str:
        """The kept text, with a line that counts the dropped bytes."""
        between = f"\n[{self.lost} bytes left out]\n".encode() if self.lost else b""
        return (self.first + between + self.last).decode("utf-8", "replace")

    def lines(self) -> list[str]:
        """Return the first and the last lines, with a line between them that counts those left out."""
        lines = self.text.strip().splitlines()
        left_out = len(lines) - 2 * SHOWN
        if left_out > 1:
            more = f" and {self.lost} bytes" if self.lost else ""
            lines[SHOWN:-SHOWN] = [f"[{left_out} lines{more} left out]"]
        return lines
