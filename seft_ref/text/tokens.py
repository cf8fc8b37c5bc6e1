"""Text to tokens and back, and where the windows of training, calibration and evaluation start."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from seft_ref.arrays.rng import STREAM_CALIBRATION, STREAM_WINDOWS, counter_key, draw
from seft_ref.errors import TextError
from seft_ref.model.config import ModelConfig


class Encoding(Protocol):
    """A text as a tokenizer has encoded it."""

    @property
    def ids(self) -> list[int]:
        """The tokens."""


class Tokenizer(Protocol):
    """The methods of a `tokenizers.Tokenizer` that are used here."""

    def encode(self, sequence: str, *, add_special_tokens: bool = True) -> Encoding:
        """Return a text as tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return tokens as a text, without special ones."""


def read_tokens(text_file: Path, model_dir: Path) -> list[int]:
    """Return the tokens of a UTF-8 text file under the tokenizer.json of a model folder, as one stream (TRN-016).

    Raises:
        TextError: TRN-016 if a file is missing, not UTF-8 or not a tokenizer, or the tokenizer cannot read the text.
    """
    if not text_file.is_file():
        raise TextError("TRN-016", f"there is no text file {text_file}")
    tokenizer = read_tokenizer(model_dir)
    try:
        # TRN-016: read bytes, because text mode would change the line ends
        text = text_file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise TextError(
            "TRN-016", f"{text_file} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
        ) from error
    return encoded(text, tokenizer)


def encoded(text: str, tokenizer: Tokenizer, *, add_special_tokens: bool = True) -> list[int]:
    """Return the tokens of a text (TRN-016).

    Raises:
        TextError: TRN-016 if the tokenizer cannot read the text: it has no token for a character, or a character is
            half of a surrogate pair.
    """
    try:
        return list(tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
    except Exception as error:  # the library raises nothing more special
        raise TextError("TRN-016", f"the tokenizer cannot read a text of {len(text)} characters: {error}") from error


def read_tokenizer(model_dir: Path) -> Tokenizer:
    """Return the tokenizer of a model folder, a `tokenizers.Tokenizer` that neither cuts nor pads (TRN-016).

    Raises:
        TextError: TRN-016 if tokenizer.json is missing or not a tokenizer.
    """
    import tokenizers

    tokenizer_file = model_dir / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise TextError("TRN-016", _without_tokenizer(model_dir))
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:
        raise TextError("TRN-016", f"{tokenizer_file} cannot be read: {error}") from error
    # TRN-016: switch off options that an earlier use may have saved in tokenizer.json
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    return tokenizer


def _without_tokenizer(model_dir: Path) -> str:
    """Return the message for a folder without tokenizer.json, with what to do about it."""
    if not any((model_dir / name).is_file() for name in ("config.json", "tokenizer.model")):
        return f"{model_dir} holds no model: it has neither config.json nor tokenizer.json"
    if not (model_dir / "tokenizer.model").is_file():
        return f"{model_dir} has no tokenizer.json; copy the model's tokenizer there"
    return (
        f"{model_dir} has a tokenizer.model (SentencePiece) and no tokenizer.json; make one in the Hugging Face "
        "folder, before it is converted, with: pip install transformers sentencepiece protobuf; "
        'python -c "from transformers import AutoTokenizer; '
        "AutoTokenizer.from_pretrained('DIR').backend_tokenizer.save('DIR/tokenizer.json')\""
    )


def check_windows(tokens: Sequence[int], length: int, config: ModelConfig) -> None:
    """Refuse a text, or windows of it, that the model cannot read (TRN-017, TRN-018).

    Raises:
        TextError: TRN-017 for windows longer than the model has positions, TRN-018 for a token that is not in its
        vocabulary.
    """
    # a text shorter than a window is refused later, when its windows are placed
    if length <= len(tokens):
        check_length(length, config)
    check_tokens(tokens, config)


def check_tokens(tokens: Sequence[int], config: ModelConfig) -> None:
    """Refuse a text with a token that is not in the vocabulary of the model (TRN-018)."""
    lowest, highest = min(tokens, default=0), max(tokens, default=0)
    # TRN-018
    if lowest < 0 or highest >= config.vocab_size:
        raise TextError(
            "TRN-018",
            f"the text has the token {lowest if lowest < 0 else highest}, and vocab_size of the model is "
            f"{config.vocab_size}: tokenizer and model do not belong together; use the tokenizer.json of this model",
        )


def check_length(length: int, config: ModelConfig) -> None:
    """Refuse windows longer than the model has positions (TRN-017)."""
    # TRN-017
    if length > config.max_position_embeddings:
        raise TextError(
            "TRN-017",
            f"windows of {length} tokens are longer than max_position_embeddings {config.max_position_embeddings} of "
            f"the model; use a length of at most {config.max_position_embeddings}",
        )


def written(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the text of tokens piece by piece, each as soon as later tokens cannot change it (GEN-009).

    The pieces together are the text of all tokens. A character of several tokens comes with the last of them, or when
    the tokens end.
    """
    # A token decoded alone may lose the space in front of it, or be only some bytes of a character. So decode together
    # with the tokens of the last piece, which begins at `before`, and yield what follows the text of that piece.
    so_far: list[int] = []
    before = shown = 0
    for token in tokens:
        so_far.append(token)
        old_text = tokenizer.decode(so_far[before:shown])
        text = tokenizer.decode(so_far[before:])
        # a decoder writes U+FFFD for bytes that are no character yet
        if len(text) > len(old_text) and not text.endswith("\ufffd"):
            yield text[len(old_text) :]
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


def evaluation_starts(tokens: int, length: int, windows: int | None) -> list[int]:
    """Return where the evaluation windows start: spread evenly over the text, or side by side if `windows` is None."""
    room = _room(tokens, length, "EVL-002")
    if windows is None:
        # EVL-001.3
        return list(range(0, room, length))
    # EVL-001.2
    return [i * (room - 1) // max(windows - 1, 1) for i in range(windows)]


def _room(tokens: int, length: int, clause: str) -> int:
    """Return at how many places a window can start; raise `clause` for a text shorter than one window."""
    if length < 2:
        raise TextError(clause, f"a window of {length} tokens predicts nothing; use a length of at least 2")
    if tokens < length:
        raise TextError(
            clause,
            f"the text has {tokens} tokens, one window needs {length}: give more text or a smaller length",
        )
    return tokens - length + 1
