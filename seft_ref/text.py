"""From text to the windows of tokens that training, calibration and evaluation look at, and from tokens to text."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from seft_ref.counter import STREAM_CALIBRATION, STREAM_WINDOWS, counter_key, draw
from seft_ref.errors import TextError


def read_tokens(text_file: Path, model_dir: Path) -> list[int]:
    """Return the tokens of a UTF-8 text file under the tokenizer.json of a model folder, as one stream.

    Raises:
        TextError: TRN-003 if a file is missing, not UTF-8 or not a tokenizer.
    """
    if not text_file.is_file():
        raise TextError("TRN-003", f"there is no text file {text_file}")
    tokenizer = read_tokenizer(model_dir)
    try:
        text = text_file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TextError("TRN-003", f"{text_file} is not UTF-8: {error.reason} at byte {error.start}") from error
    return list(tokenizer.encode(text).ids)


def read_tokenizer(model_dir: Path) -> Any:
    """Return the tokenizer of a model folder, a `tokenizers.Tokenizer`.

    Raises:
        TextError: TRN-003 if tokenizer.json is missing or not a tokenizer.
    """
    from tokenizers import Tokenizer

    tokenizer_file = model_dir / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise TextError("TRN-003", f"{model_dir} has no tokenizer.json; copy the model's tokenizer there")
    try:
        return Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:
        raise TextError("TRN-003", f"{tokenizer_file} cannot be read: {error}") from error


def written(tokens: Iterable[int], tokenizer: Any) -> Iterator[str]:
    """Yield the text of tokens piece by piece as it becomes certain; the pieces make up the text of them all (GEN-009).

    A character of several tokens is held back until the last of them, at the latest until the tokens end.
    """
    # Decoding a token alone would lose the space in front of it and bytes of a character: a piece is what the tokens
    # from `before` on say beyond what they said without those from `shown` on.
    so_far: list[int] = []
    before = shown = 0
    for token in tokens:
        so_far.append(token)
        known = tokenizer.decode(so_far[before:shown])
        text = tokenizer.decode(so_far[before:])
        # a decoder writes U+FFFD for bytes that are no character yet
        if len(text) > len(known) and not text.endswith("\ufffd"):
            yield text[len(known) :]
            before, shown = shown, len(so_far)
    rest = tokenizer.decode(so_far[before:])[len(tokenizer.decode(so_far[before:shown])) :]
    if rest:
        yield rest


def training_starts(tokens: int, length: int, seed: int, step: int, rows: int) -> list[int]:
    """Return where the windows of a step, counted from 1, start (TRN-003)."""
    room = _room(tokens, length, "TRN-003")
    key = counter_key(seed, STREAM_WINDOWS)
    return [draw(key, (step - 1) * rows + row) % room for row in range(rows)]


def calibration_starts(tokens: int, length: int, seed: int, samples: int) -> list[int]:
    """Return where the calibration windows start (PRN-007)."""
    room = _room(tokens, length, "PRN-007")
    key = counter_key(seed, STREAM_CALIBRATION)
    return [draw(key, i) % room for i in range(samples)]


def evaluation_starts(tokens: int, length: int, windows: int) -> list[int]:
    """Return where the evaluation windows start, spread evenly over the text (EVL-001)."""
    room = _room(tokens, length, "EVL-002")
    return [i * (room - 1) // max(windows - 1, 1) for i in range(windows)]


def _room(tokens: int, length: int, clause: str) -> int:
    """Return how many places a window can start at."""
    if length < 2:
        raise TextError(clause, f"a window of {length} tokens predicts nothing; use a length of at least 2")
    if tokens < length:
        raise TextError(
            clause,
            f"the text has {tokens} tokens, one window needs {length}: give more text or a smaller length",
        )
    return tokens - length + 1
