r"""Makes untrusted text safe for a terminal: names, paths and messages from files of others.

visible("w\x1b[2J")   ->   "w\\x1b[2J"
"""

import unicodedata


def visible(text: str, keep: str = "") -> str:
    r"""Return a text whose hidden characters are written out, ``\x1b`` for escape, ``\n`` for a line feed (FMT-167).

    Hidden are controls, marks of direction and format, halves of surrogate pairs, separators of lines, and unassigned
    code points. They could move the cursor, recolour the terminal, forge a line or reverse a name.

    Args:
        text: the text to show.
        keep: characters that stay as they are, such as a line feed in running text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep or unicodedata.category(c) == "Zs" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
