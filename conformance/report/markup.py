"""HTML as values: what is put into a tag is escaped unless it is markup itself."""

from html import escape

from conformance.report.words import visible

__all__ = ["Markup", "join", "sentence", "tag"]

_VOID = frozenset(("meta", "br", "hr"))


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *inside: str, **attributes: str) -> Markup:
    """Return an element; `class_` stands for class, an attribute whose value is empty is left out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(visible(value))}"' for key, value in attributes.items() if value
    )
    if name in _VOID:
        return Markup(f"<{name}{told}>")
    return Markup(f"<{name}{told}>{join(*inside)}</{name}>")


def join(*parts: str) -> Markup:
    """Return parts one behind the other."""
    return Markup("".join(part if isinstance(part, Markup) else escape(visible(part)) for part in parts))


def sentence(text: str) -> Markup:
    """Return a sentence of SPEC.md, what stands between backticks as code."""
    return join(*(tag("code", part) if at % 2 else part for at, part in enumerate(text.split("`"))))
