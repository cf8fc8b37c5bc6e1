"""Builds HTML from strings. A text inside a tag is escaped unless it is `Markup` already."""

from html import escape

from conformance.report.words import visible

__all__ = ["Markup", "join", "sentence", "tag"]

_VOID = frozenset(("meta", "br", "hr"))


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *inside: str, **attributes: str) -> Markup:
    """Return an element; `class_` stands for class, and attributes with an empty value are left out."""
    rendered = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(visible(value))}"' for key, value in attributes.items() if value
    )
    if name in _VOID:
        return Markup(f"<{name}{rendered}>")
    return Markup(f"<{name}{rendered}>{join(*inside)}</{name}>")


def join(*parts: str) -> Markup:
    """Return the concatenated parts; those that are no `Markup` are escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(visible(part)) for part in parts))


def sentence(text: str) -> Markup:
    """Return a sentence of SPEC.md with the text between backticks as code."""
    return join(*(tag("code", part) if at % 2 else part for at, part in enumerate(text.split("`"))))
