"""A terminal that shows untrusted text safely: names of files, answers of ports. The command lines share it."""

from typing import Any

from rich.console import Console
from rich.text import Text

from conformance.report.visible import visible

__all__ = ["Terminal"]


class Terminal(Console):
    """A console that shows text as it is: markup, names of emoji and highlighting are off (FMT-167).

    Hidden characters are written out, in cells of tables too. `keep` has characters that stay, such as a line feed.
    """

    def __init__(self, keep: str = "", **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)
        self._keep = keep

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the Rich text of a string, with hidden characters written out."""
        return super().render_str(visible(text, self._keep), **options)
