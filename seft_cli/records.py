"""Options of a command in records: a command takes one parameter, a dataclass, where it would take ten."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter
from typing import Any, get_type_hints


def of_records(command: Callable[..., None]) -> Callable[..., None]:
    """Let typer see one option for each field of the parameters that are dataclasses, in the order of the command."""
    hints = get_type_hints(command, include_extras=True)
    records: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters = [
        option
        for name, parameter in inspect.signature(command).parameters.items()
        for option in (
            _options(records[name])
            if name in records
            else [parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)]
        )
    ]

    @wraps(command)
    def from_options(**options: Any) -> None:
        made = {
            name: kind(**{one.name: options.pop(one.name) for one in fields(kind)}) for name, kind in records.items()
        }
        command(**options, **made)

    from_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    from_options.__annotations__ = {one.name: one.annotation for one in parameters}
    return from_options


def _options(kind: Any) -> Iterator[Parameter]:
    """Yield an option for each field of a dataclass."""
    hints = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        default = Parameter.empty if one.default is MISSING else one.default
        yield Parameter(one.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[one.name])


def by_option(record: Any) -> dict[str, Any]:
    """Return option -> value, for the fields of a record whose options are named after them."""
    return {f"--{one.name.replace('_', '-')}": getattr(record, one.name) for one in fields(record)}
