"""Writes conversations with the chat template of a model's folder (TRN-016.8, TRN-020)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from seft_ref.errors import TextError

Message = Mapping[str, str]
"""One message of a conversation: its role and its content."""


class Writer(Protocol):
    """A function that writes conversations with a chat template."""

    def __call__(self, messages: Sequence[Message], *, opens_answer: bool) -> str:
        """Return the text of messages; with `opens_answer` the words that open an answer follow."""


def chat_writer(folder: Path) -> Writer:
    """Return the function that writes conversations with the chat template of a folder.

    Raises:
        TextError: TRN-020 without jinja2 or a chat template, for one that is damaged, and when called, for a
            conversation that the template refuses.
    """
    try:
        from jinja2.exceptions import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise TextError("TRN-020", "a chat template needs jinja2; pip install jinja2") from None
    settings = _settings(folder)
    # templates are written for these options; the sandbox is there because a folder's template is not trusted
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=_extensions())
    environment.globals["raise_exception"] = _refuse
    special = {name: _content(settings.get(name)) for name in ("bos_token", "eos_token")}

    def damaged(error: Exception) -> TextError:
        why = str(error) or type(error).__name__
        if "strftime_now" in why:
            why = "it asks for the date, and runs must not depend on it; write a date into the template"
        return TextError("TRN-020", f"the chat template of {folder} does not work: {why}")

    try:
        template = environment.from_string(_template(folder, settings))
    except TemplateError as error:
        raise damaged(error) from None

    def write(messages: Sequence[Message], *, opens_answer: bool) -> str:
        try:
            return template.render(messages=list(messages), add_generation_prompt=opens_answer, **special)
        except TextError:  # raised by the template's `raise_exception`
            raise
        except Exception as error:  # noqa: BLE001  a template is a program, which may divide by zero
            raise damaged(error) from None

    return write


def _extensions() -> list[Any]:
    """Return the Jinja extensions that templates use: break and continue, and marks around an assistant's words."""
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as Jinja's own extensions have it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return [loopcontrols, Generation]


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise TextError("TRN-020", f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise TextError("TRN-020", f"{file} is not a JSON object")
    return content


def _template(folder: Path, settings: dict[str, Any]) -> str:
    """Return the template from its own file, or from tokenizer_config.json, which has one text or several by name."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise TextError(
                "TRN-020", f"{file} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
            ) from None
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[-1].get("template") if named else None
    if not isinstance(template, str):
        raise TextError(
            "TRN-020", f"{folder} has no chat template; write its turns as prompt and completion, or copy a template"
        )
    return template


def _content(token: Any) -> str:
    """Return the text of a special token: the token itself, or the content of an object."""
    return str(token.get("content", "")) if isinstance(token, dict) else token or ""


def _refuse(message: str) -> NoReturn:
    raise TextError("TRN-020", f"the chat template refuses this: {message}")
