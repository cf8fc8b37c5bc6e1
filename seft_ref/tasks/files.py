"""Reads data files strictly: a file, row or value in another form than the task needs is refused by name (TSK-006)."""

import csv
import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from pathlib import Path

from seft_ref.errors import TaskError

Record = Mapping[str, object]
"""A row of a data file: its values by name."""


def malformed(file: Path, number: int, why: str) -> TaskError:
    """Return the error for an item in another form than its task needs; items are counted from 1 (TSK-006)."""
    return TaskError("TSK-006", f"item {number} of {file} {why}; repair it, or take the item out of the file")


def read_bytes(file: Path) -> bytes:
    """Return the bytes of a data file, without the byte order mark that some editors put in front (TSK-006.3).

    Raises:
        TaskError: TSK-006 if there is no such file.
    """
    if not file.is_file():
        raise TaskError(
            "TSK-006", f"there is no {file.name} in {file.parent}; put the file there, or leave the task out"
        )
    return file.read_bytes().removeprefix(BOM_UTF8)


def read_utf8(file: Path) -> str:
    """Return the text of a data file.

    Raises:
        TaskError: TSK-006 if there is no such file, or it is not UTF-8.
    """
    try:
        return read_bytes(file).decode()
    except UnicodeDecodeError as error:
        raise TaskError("TSK-006", f"{file} is not UTF-8: {error.reason} at byte {error.start}; convert it") from error


def read_json(file: Path) -> list[Record]:
    """Return the records of a JSON file that holds an array of objects.

    Raises:
        TaskError: TSK-006 if the file is missing, not UTF-8, not JSON, empty, or no array of objects.
    """
    text = read_utf8(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaskError("TSK-006", f"{file} is not JSON: {error}; download it again") from error
    if not isinstance(content, list):
        raise TaskError("TSK-006", f"{file} is not an array of items; download it again")
    return [_as_record(file, number, one) for number, one in enumerate(_some(file, content), start=1)]


def read_json_lines(file: Path) -> list[Record]:
    """Return the records of a file with one JSON object a line.

    Raises:
        TaskError: TSK-006 if the file is missing, not UTF-8, empty, or a line is no JSON object.
    """
    records = []
    # not `splitlines`, because it also splits at characters that JSON allows inside a string
    lines = read_utf8(file).rstrip().split("\n")
    if lines == [""]:
        raise TaskError("TSK-006", f"{file} holds no item; download it again")
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_as_record(file, number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise malformed(file, number, f"is not JSON: {error}") from error
    return records


def read_csv(file: Path, text: str, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV text whose values a comma or a semicolon separates, whichever its first line uses.

    columns  the columns that are needed; others are left out
    Raises   TaskError TSK-006 for a column that is missing, or a row with another number of values
    """
    # TSK-006.3: the reader of csv would give a row without values for each blank line at the end
    text = re.sub(r"[\r\n]\s*\Z", "\n", text)
    for separator in ",;":
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        header = next(rows, [])
        if set(columns) <= set(header):
            break
    else:
        raise TaskError("TSK-006", f"{file} lacks one of the columns {', '.join(columns)}; download it again")
    places = {name: header.index(name) for name in columns}
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise malformed(file, number, f"has {len(row)} values, and the first line has {len(header)}")
        yield {name: row[place] for name, place in places.items()}


def text_of(record: Record, key: str, file: Path, number: int) -> str:
    """Return a value of a record that must be a text with more than white space.

    Raises:
        TaskError: TSK-006 if it is missing, or no such text.
    """
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise malformed(file, number, f"has no text under {key!r}")
    if not is_text(value):
        raise malformed(file, number, f"has half of a surrogate pair under {key!r}, which is no character")
    return value


def is_text(value: object) -> bool:
    """Return whether a value is a text that a tokenizer takes: one without half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _as_record(file: Path, number: int, content: object) -> Record:
    if not isinstance(content, dict):
        raise malformed(file, number, "is no JSON object")
    return content


def _some(file: Path, content: list[object]) -> list[object]:
    if not content:
        raise TaskError("TSK-006", f"{file} holds no item; download it again")
    return content
