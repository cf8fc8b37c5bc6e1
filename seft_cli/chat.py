"""Wrap a prompt as one turn of a conversation with the folder's own chat template."""

import json
from pathlib import Path
from typing import Any, NoReturn

from seft_cli.console import Refused


def as_chat(folder: Path, prompt: str) -> str:
    """Return the prompt as the text of one user turn, ready for the model to answer.

    Raises:
        Refused: the folder has no chat template, or the template does not work.
    """
    try:
        from jinja2.exceptions import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise Refused("--chat needs jinja2; pip install jinja2") from None
    settings = _settings(folder)
    # these options, because templates are written for them; a sandbox, because a folder's template is not trusted
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    special = {name: _content(settings.get(name)) for name in ("bos_token", "eos_token")}
    try:
        template = environment.from_string(_template(folder, settings))
        turns = [{"role": "user", "content": prompt}]
        return template.render(messages=turns, add_generation_prompt=True, **special)
    except TemplateError as error:
        raise Refused(f"the chat template of {folder} does not work: {error}") from None


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise Refused(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise Refused(f"{file} is not a JSON object")
    return content


def _template(folder: Path, settings: dict[str, Any]) -> str:
    """Return the template from its own file, or from tokenizer_config.json, which has one text or several by name."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template if isinstance(entry, dict) and "name" in entry}
        template = named.get("default")
    if not isinstance(template, str):
        raise Refused(f"{folder} has no chat template; leave --chat out")
    return template


def _content(token: Any) -> str:
    """Return the text of a special token: the token itself, or the content of an object."""
    return str(token.get("content", "")) if isinstance(token, dict) else token or ""


def _refuse(message: str) -> NoReturn:
    raise Refused(f"the chat template refuses this: {message}")
