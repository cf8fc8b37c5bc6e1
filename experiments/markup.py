"""Functions that return Markdown for result pages: paragraphs, lists, commands and tables."""

import re
import shlex
import textwrap
from collections.abc import Sequence


def prose(text: str, indent: str = "") -> str:
    """Return a paragraph, a sentence a line, wrapped at 120 characters; all lines but the first are indented."""
    # keep | and % off the start of a line, because there | begins a table and % a comment of the manual
    flow = re.sub(r" (?=[|%])", "\N{NO-BREAK SPACE}", " ".join(text.split()))
    lines: list[str] = []
    # do not split after an initial or an abbreviation
    for sentence in re.split(r"(?<=[.?!])(?<!\b[A-Z]\.)(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.) (?=[A-Z`*]|[0-9]+ [a-z])", flow):
        lines += textwrap.wrap(
            sentence,
            120,
            initial_indent=indent if lines else "",
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def bullets(sentences: Sequence[str]) -> str:
    """Return a Markdown list with an item for each sentence."""
    return "\n".join(prose(f"- {sentence}", "  ") for sentence in sentences)


def shell(command: str) -> str:
    """Return a command broken into lines of about 130 characters; every further line begins with an option."""
    lines = [""]
    words = [shlex.quote(word) for word in shlex.split(command)]
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--") and len(f"{lines[-1]} {word} {value}") > 130:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(lines)


def title_of(command: str, usual: str) -> str:
    """Return the title that a command gives its page, else the usual one."""
    words = shlex.split(command)
    return words[words.index("--title") + 1] if "--title" in words else usual


def measured_by(command: str, name: str) -> str:
    """Return Markdown with the command that measured the figures of a page, and the one that writes the page again."""
    again = f"`python -m experiments {name} --out FOLDER --redraw` writes this page again from [its JSON]({name}.json)."
    return f"```\n{shell(command)}\n```\n\n{prose(again)}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table whose first columns are text and the others numbers."""
    rule = "|" + "|".join("---" if i < left else "---:" for i in range(len(headings))) + "|"
    first, *others = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (headings, *rows))
    return "\n".join((first, rule, *others))
