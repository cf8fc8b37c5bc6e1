"""Instruction data: a prompt and its completion, or a conversation, of which the answers are learned (TRN-020).

examples = examples_of(["train.jsonl"], Path("pruned-sparse"), length=512, end=0)
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, get_args

from seft_ref.arrays.rng import STREAM_EXAMPLES, counter_key, shuffled
from seft_ref.errors import TextError
from seft_ref.layers.cross_entropy import IGNORE
from seft_ref.model.config import ModelConfig
from seft_ref.text.chat import Message, Writer, chat_writer
from seft_ref.text.tokens import Tokenizer, check_length, check_tokens, check_windows, encoded, read_tokenizer

Longer = Literal["refuse", "drop", "cut"]
"""What to do with an example that is longer than a row."""
ROLES = ("system", "developer", "user", "assistant", "tool")
"""The roles that a message of a conversation may have."""
_MOST_STEPS = 10**9
_WITH_MESSAGES = ("tools", "chat_template_kwargs", "images", "documents")
"""Keys of a line that would change how a conversation is written."""


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens, and for each its label: the token itself where it is learned, else −100 (TRN-001)."""

    tokens: Sequence[int]
    labels: Sequence[int]

    def targets(self) -> int:
        """Return how many tokens are learned; nothing predicts the first."""
        return sum(label != IGNORE for label in self.labels[1:])


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """The examples of a run in the order of their files.

    Attributes:
        items: one for each line, without those that are left out.
        packed: rows are cut from the examples laid end to end; else each example is a row (TRN-021).
        left_out: how many examples were longer than a row and left out.
        cut: how many were cut to a row.
    """

    items: Sequence[Example] = field(repr=False)
    packed: bool = False
    left_out: int = 0
    cut: int = 0

    def tokens(self) -> list[int]:
        """Return the tokens of all examples as one stream."""
        return [token for example in self.items for token in example.tokens]

    def numbers(self) -> Iterator[Sequence[int]]:
        """Yield all numbers that determine the rows of a run, for a digest (CKP-007.3)."""
        yield [int(self.packed)]
        for example in self.items:
            yield [len(example.tokens), *example.tokens, *example.labels]

    def most_unlearned(self) -> int:
        """Return the largest number of consecutive tokens that are not learned, over all orders of the examples."""
        stretches = [_unlearned([IGNORE, *example.labels[1:]]) for example in self.items]
        inside = max(max(stretch) for stretch in stretches)
        return max(inside, max(stretch[-1] for stretch in stretches) + max(stretch[0] for stretch in stretches))

    def steps(self, epochs: float, rows: int, length: int) -> int:
        """Return how many steps of `rows` rows pass `epochs` times over the examples (TRN-021.5).

        Raises:
            TextError: TRN-021 for more than a billion steps.
        """
        of_epoch = sum(len(example.tokens) for example in self.items) / length if self.packed else len(self.items)
        n = epochs * of_epoch / rows - 2.0**-20
        if n > _MOST_STEPS:
            raise TextError("TRN-021", f"{epochs:g} epochs are {n:.3g} steps; give fewer")
        return max(1, math.ceil(n))

    def rows(self, numbers: range, length: int, seed: int) -> list[Example]:
        """Return the rows with these numbers, counted from 0 at the first step (TRN-021).

        A packed row has `length` tokens; another is as long as its example.
        """
        if self.packed:
            return self._packed_rows(numbers, length, seed)
        epoch, skipped = divmod(numbers.start, len(self.items))
        return list(islice(self._from_epoch(epoch, seed), skipped, skipped + len(numbers)))

    def _from_epoch(self, epoch: int, seed: int) -> Iterator[Example]:
        """Yield the examples of an epoch and of all that follow it."""
        n = len(self.items)
        for e in count(epoch):
            for i in shuffled(counter_key(seed, STREAM_EXAMPLES), range(e * n, (e + 1) * n)):
                yield self.items[i]

    def _packed_rows(self, numbers: range, length: int, seed: int) -> list[Example]:
        """Return consecutive rows of `length` tokens of all epochs laid end to end."""
        epoch, skipped = divmod(numbers.start * length, sum(len(example.tokens) for example in self.items))
        n_tokens = len(numbers) * length
        tokens: list[int] = []
        labels: list[int] = []
        for example in self._from_epoch(epoch, seed):
            if skipped >= len(example.tokens):
                skipped -= len(example.tokens)
                continue
            tokens += example.tokens[skipped:]
            # the first token of an example is no target, because another example stands before it
            labels += [IGNORE, *example.labels[1:]][skipped:]
            skipped = 0
            if len(tokens) >= n_tokens:
                break
        return [Example(tokens[i : i + length], labels[i : i + length]) for i in range(0, n_tokens, length)]


Data = Sequence[int] | Examples
"""The training data of a run: a text as one stream of tokens (TRN-003), or examples (TRN-021)."""


def stream_of(data: Data) -> Sequence[int]:
    """Return the tokens of a run's data as one stream."""
    return data.tokens() if isinstance(data, Examples) else data


def check_data(data: Data, length: int, config: ModelConfig) -> None:
    """Refuse data, or rows of it, that the model cannot read.

    Raises:
        TextError: TRN-017 for rows longer than the model has positions, TRN-018 for a token that is not in its
        vocabulary, TRN-021 for an example longer than a row.
    """
    if isinstance(data, Examples):
        check_length(length, config)
        longest = max(len(example.tokens) for example in data.items)
        if longest > length and not data.packed:
            raise TextError("TRN-021", f"an example has {longest} tokens and a row {length}; raise length to {longest}")
        # TRN-021.3: a row needs one token more, because nothing predicts its first one
        if data.packed and (least := data.most_unlearned() + 2) > length:
            raise TextError(
                "TRN-021",
                f"{least - 2} tokens on end may have none that is learned, so that a packed row of {length} could hold "
                f"nothing to learn; raise length to {least}, or do not pack",
            )
        check_tokens(data.tokens(), config)
    else:
        check_windows(data, length, config)


def examples_of(
    files: Sequence[str | Path],
    model_dir: str | Path,
    length: int,
    *,
    end: int | None,
    longer: Longer = "refuse",
    packed: bool = False,
) -> Examples:
    """Return the examples of JSON Lines files, under the tokenizer and the chat template of a folder (TRN-020).

    length  tokens of a row
    end     the token that ends a completion, None to put none (GEN-008)
    longer  what to do with an example longer than a row that is not packed
    packed  whether rows are cut from all examples laid end to end
    Raises  TextError TRN-020 for a line that is no example, a template that refuses one, an example of which nothing
            is learned or that is too long, and files without an example; TRN-016 as `read_tokenizer`
    """
    if longer not in get_args(Longer):
        raise TextError("TRN-020", f"longer is {longer!r}, must be one of {', '.join(get_args(Longer))}")
    reader = _Reader(Path(model_dir), read_tokenizer(Path(model_dir)), end)
    examples: list[Example] = []
    left_out = cut = 0
    for file in map(Path, files):
        for place, line in _lines(file):
            example = reader.example(line, place)
            if len(example.tokens) > length and not packed:
                if longer == "refuse":
                    raise TextError(
                        "TRN-020",
                        f"{place} has {len(example.tokens)} tokens and a row {length}; raise length, or take longer "
                        "drop to leave such examples out",
                    )
                cut += longer == "cut"
                left_out += longer == "drop"
                if longer == "drop":
                    continue
                example = Example(example.tokens[:length], example.labels[:length])
            if not example.targets():
                raise TextError("TRN-020", f"{place}: {_why_nothing(example, length)}")
            examples.append(example)
    if not examples:
        raise TextError("TRN-020", f"{', '.join(map(str, files))}: no example is left; give at least one")
    return Examples(examples, packed, left_out, cut)


def _why_nothing(example: Example, length: int) -> str:
    """Return why nothing of an example is learned, and what to do."""
    if len(example.tokens) == length:
        return (
            f"what stands before the first answer fills the row of {length} tokens, so nothing is left to learn; raise "
            "length, or take longer drop"
        )
    if len(example.tokens) < 2:
        return "it has one token, which nothing predicts; give a prompt, or a longer completion"
    return "none of its tokens is an answer's; look at the chat template, which writes no answer here"


def _constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the place and the object of every line of a file that is not blank."""
    if not file.is_file():
        what = "is a folder; name the file in it" if file.is_dir() else "is not there"
        raise TextError("TRN-020", f"the file of examples {file} {what}")
    for number, raw in enumerate(file.read_bytes().split(b"\n"), 1):
        place = f"{file} line {number}"
        try:
            text = raw.decode()
            line = json.loads(text, object_pairs_hook=_object, parse_constant=_constant) if text.strip() else None
        except UnicodeDecodeError as error:
            raise TextError(
                "TRN-020", f"{place} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
            ) from None
        except json.JSONDecodeError as error:
            raise TextError("TRN-020", f"{place} is not JSON: {_why_not_json(error, text, number)}") from None
        except (ValueError, RecursionError) as error:
            why = "a number has too many digits" if "digits" in str(error) else error
            raise TextError("TRN-020", f"{place} is not JSON that can be read: {why}") from None
        if line is None and text.strip() == "":
            continue
        if not isinstance(line, dict):
            raise TextError("TRN-020", f"{place} is not a JSON object with prompt and completion, or messages")
        yield place, line


def _why_not_json(error: json.JSONDecodeError, text: str, number: int) -> str:
    if text.startswith("\ufeff"):
        return "the file begins with a byte order mark; save it as UTF-8 without one"
    if number == 1 and text.strip().startswith("["):
        return "the file holds one array; write one object a line, without the brackets and commas between"
    return f"{error.msg} at column {error.colno}"


@dataclass
class _Reader:
    """Turns lines into examples; it reads the chat template when the first conversation comes."""

    folder: Path
    tokenizer: Tokenizer
    end: int | None
    _writer: Writer | None = None

    def example(self, line: Mapping[str, Any], place: str) -> Example:
        kinds = {"messages"} & line.keys(), {"prompt", "completion"} & line.keys()
        if all(kinds) or not any(kinds):
            raise TextError(
                "TRN-020",
                f"{place} must have either messages, or prompt and completion; it has {', '.join(line) or 'no key'}",
            )
        return self._conversation(line, place) if kinds[0] else self._completion(line, place)

    def _completion(self, line: Mapping[str, Any], place: str) -> Example:
        prompt, completion = (_text(line, key, place) for key in ("prompt", "completion"))
        if not completion:
            raise TextError("TRN-020", f"{place} has an empty completion; give one or leave the line out")
        whole = self._ids(prompt + completion, special=True)
        learned = whole[_shared(whole, self._ids(prompt, special=True)) :]
        if not whole:
            raise TextError("TRN-020", f"{place}: the tokenizer reads no token in it; give other text")
        # TRN-020.4
        added = [] if self.end is None or whole[-1] == self.end else [self.end]
        return Example([*whole, *added], [*[IGNORE] * (len(whole) - len(learned)), *learned, *added])

    def _conversation(self, line: Mapping[str, Any], place: str) -> Example:
        if used := [key for key in _WITH_MESSAGES if line.get(key)]:
            raise TextError("TRN-020", f"{place} has {', '.join(used)}, which no template is given here; leave it out")
        messages = _messages(line["messages"], place)
        self._writer = self._writer or chat_writer(self.folder)

        def write(n: int, *, opens_answer: bool = False) -> str:
            assert self._writer is not None
            try:
                return self._writer(messages[:n], opens_answer=opens_answer)
            except TextError as error:
                raise TextError(error.clause, f"{place}: {error.message}") from None

        whole_text = write(len(messages))
        whole = self._ids(whole_text, special=False)
        labels = [IGNORE] * len(whole)
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = write(i, opens_answer=True), write(i + 1)
            # TRN-020.5
            if not (after.startswith(before) and whole_text.startswith(after)):
                raise TextError(
                    "TRN-020",
                    f"{place}: the chat template writes message {i + 1} otherwise than alone, so its answer cannot be "
                    "told from the rest; give prompt and completion instead",
                )
            first, last = (_shared(whole, self._ids(text, special=False)) for text in (before, after))
            labels[first:last] = whole[first:last]
        return Example(whole, labels)

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return encoded(text, self.tokenizer, add_special_tokens=special)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, refusing a key that stands twice."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return members


def _messages(value: Any, place: str) -> list[Message]:
    """Return the messages of a line; one at least must be an answer, and no answer may be empty."""
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise TextError("TRN-020", f"{place}: messages must be a list of objects with role and content")
    for message in value:
        if isinstance(role := message.get("role"), str) and role not in ROLES:
            raise TextError("TRN-020", f"{place} has the role {role!r}, must be one of {', '.join(ROLES)}")
    messages: list[Message] = [{key: _text(message, key, place) for key in ("role", "content")} for message in value]
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers or not all(answers):
        raise TextError(
            "TRN-020",
            f"{place} has {'an empty' if answers else 'no'} answer of the role assistant; give one, or take it out",
        )
    return messages


def _unlearned(labels: Sequence[int]) -> list[int]:
    """Return the lengths of the stretches that are not learned: before the first learned token, between, at the end."""
    counts = [0]
    for label in labels:
        if label == IGNORE:
            counts[-1] += 1
        else:
            counts.append(0)
    return counts


def _text(line: Mapping[str, Any], key: str, place: str) -> str:
    value = line.get(key)
    if not isinstance(value, str):
        kind = "missing" if key not in line else "null" if value is None else f"of type {type(value).__name__}"
        raise TextError("TRN-020", f"{place}: {key} is {kind}, must be a text")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise TextError("TRN-020", f"{place}: {key} holds half of a surrogate pair, which is no character; take it out")
    return value


def _shared(whole: Sequence[int], part: Sequence[int]) -> int:
    """Return the length of the longest common prefix of two lists of tokens (TRN-020.3)."""
    n = 0
    while n < min(len(whole), len(part)) and whole[n] == part[n]:
        n += 1
    return n
