"""From a file to tokens, and from tokens to windows; every refusal with the smallest input that earns it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from seft_ref.arrays.rng import counter_key, draw
from seft_ref.errors import TextError
from seft_ref.text.examples import Example, Examples
from seft_ref.text.tokens import (
    calibration_starts,
    check_windows,
    encoded,
    evaluation_starts,
    read_tokenizer,
    read_tokens,
    training_starts,
    written,
)


@pytest.fixture
def model_dir(tmp_path):
    """A folder with a tokenizer of four words."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2, "ü": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def refused(call):
    with pytest.raises(TextError) as error:
        call()
    return error.value


def test_TRN_016_a_text_is_one_stream_of_tokens(model_dir):
    text = model_dir / "text.txt"
    text.write_text("a b\nb ü\n\n  word a", encoding="utf-8")
    assert read_tokens(text, model_dir) == [1, 2, 2, 3, 0, 1]
    text.write_text("", encoding="utf-8")
    assert read_tokens(text, model_dir) == []


def test_TRN_016_missing_files_are_refused_by_name(model_dir, tmp_path_factory):
    error = refused(lambda: read_tokens(model_dir / "none.txt", model_dir))
    assert (error.clause, "none.txt" in str(error)) == ("TRN-016", True)
    text = model_dir / "text.txt"
    text.write_text("a", encoding="utf-8")
    error = refused(lambda: read_tokens(text, tmp_path_factory.mktemp("bare")))
    assert (error.clause, "tokenizer.json" in str(error)) == ("TRN-016", True)


def test_TRN_016_a_text_that_is_not_utf_8_is_refused_with_the_byte(model_dir):
    text = model_dir / "text.txt"
    text.write_bytes(b"a b \xff")
    error = refused(lambda: read_tokens(text, model_dir))
    assert (error.clause, "at byte 4" in str(error)) == ("TRN-016", True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "none"}}'])
def test_TRN_016_a_tokenizer_that_is_none_is_refused(model_dir, content):
    text = model_dir / "text.txt"
    text.write_text("a", encoding="utf-8")
    (model_dir / "tokenizer.json").write_text(content, encoding="utf-8")
    assert refused(lambda: read_tokens(text, model_dir)).clause == "TRN-016"


def test_TRN_016_a_character_without_a_token_is_refused(model_dir):
    text = model_dir / "text.txt"
    text.write_text("a c", encoding="utf-8")
    # a tokenizer whose token for unknown words is not in its vocabulary
    content = json.loads((model_dir / "tokenizer.json").read_text())
    content["model"]["unk_token"] = "[UNK]"
    (model_dir / "tokenizer.json").write_text(json.dumps(content))
    error = refused(lambda: read_tokens(text, model_dir))
    assert (error.clause, "cannot read a text of 3 characters" in str(error)) == ("TRN-016", True)
    assert refused(lambda: encoded("a \udcff", read_tokenizer(model_dir))).clause == "TRN-016"


def saved(folder, *, special=True, cut=True, dropout=None):
    """Save a tokenizer with a token <s> at the start of a stream, as a call that cuts and pads leaves it."""
    vocabulary = {"?": 0, "<s>": 1, "a": 2, "b": 3, "ab": 4}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b")], dropout=dropout, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>"])
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    if cut:
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(pad_id=0, pad_token="?", length=9)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(
    ("text", "expected"), [("ab a " * 50, [1, *[4, 2] * 50]), ("a", [1, 2])], ids=["longer", "shorter"]
)
def test_TRN_016_truncation_and_padding_of_the_tokenizer_are_not_applied(tmp_path, text, expected):
    (tmp_path / "text.txt").write_text(text)
    tokens = read_tokens(tmp_path / "text.txt", saved(tmp_path))
    assert tokens == expected
    assert read_tokenizer(tmp_path).encode(text).ids == tokens


def test_TRN_016_a_dropout_of_the_tokenizer_is_not_applied(tmp_path):
    (tmp_path / "text.txt").write_text("ab " * 100)
    folder = saved(tmp_path, dropout=0.5)
    assert read_tokens(tmp_path / "text.txt", folder) == [1, *[4] * 100]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    "switches", [None, {"add_bos_token": True, "bos_token": "<s>"}, {"add_bos_token": False, "bos_token": "<s>"}]
)
def test_TRN_016_tokens_are_those_of_transformers(tmp_path, special, switches):
    transformers = pytest.importorskip("transformers")
    text = "a ab b <s> ab\r\na  c\n" * 20
    (tmp_path / "text.txt").write_bytes(text.encode())
    saved(tmp_path, special=special)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    if switches is not None:
        named = switches | {"tokenizer_class": "PreTrainedTokenizerFast"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    tokens = read_tokens(tmp_path / "text.txt", tmp_path)
    assert tokens == theirs(text).input_ids
    assert tokens.count(1) == 20 + special
    # as the words of a chat template are read
    assert read_tokenizer(tmp_path).encode(text, add_special_tokens=False).ids == tokens[special:]


def test_TRN_016_nothing_in_a_text_is_changed(tmp_path):
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    content = "\ufeffa\r\nb\rc\n".encode()
    (tmp_path / "text.txt").write_bytes(content)
    tokens = read_tokens(tmp_path / "text.txt", tmp_path)
    assert read_tokenizer(tmp_path).decode(tokens).encode() == content


def test_TRN_016_a_sentencepiece_model_alone_is_refused_with_what_to_type(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    error = str(refused(lambda: read_tokenizer(tmp_path)))
    assert "pip install transformers sentencepiece protobuf" in error
    command = error.split('python -c "')[1].rstrip('"')
    compile(command, "command", "exec")
    assert "save('DIR/tokenizer.json')" in command


def test_TRN_016_a_folder_without_a_model_is_said_to_be_one(tmp_path):
    assert f"{tmp_path} holds no model" in str(refused(lambda: read_tokenizer(tmp_path)))


class Reads:
    """A config, as far as `check_windows` looks at it."""

    max_position_embeddings, vocab_size = 8, 5


@pytest.mark.parametrize("tokens", [[0, 4] * 10, np.array([0, 4] * 10), []], ids=["list", "array", "none"])
def test_TRN_017_TRN_018_what_a_model_can_read(tokens):
    check_windows(tokens, 8, Reads)
    # a text shorter than a window is refused by what places the windows (TRN-003, PRN-007, EVL-002)
    check_windows(tokens, 21, Reads)


def test_TRN_017_a_window_longer_than_the_model_has_positions():
    error = refused(lambda: check_windows([0] * 9, 9, Reads))
    assert (error.clause, "at most 8" in str(error)) == ("TRN-017", True)


@pytest.mark.parametrize("token", [5, -1])
def test_TRN_018_a_token_that_the_model_does_not_know(token):
    error = refused(lambda: check_windows([0] * 9 + [token], 8, Reads))
    assert (error.clause, "do not belong together" in str(error)) == ("TRN-018", True)
    assert f"token {token}," in str(error)


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_TRN_003_training_windows_come_from_the_counter(seed):
    key = counter_key(seed, 2)
    for step, rows in ((1, 3), (2, 3), (7, 1)):
        expected = [draw(key, (step - 1) * rows + b) % (101 - 13 + 1) for b in range(rows)]
        assert training_starts(101, 13, seed, step, rows) == expected


def test_TRN_003_the_last_window_of_a_text_can_be_drawn():
    starts = {start for step in range(1, 200) for start in training_starts(9, 7, 0, step, 2)}
    assert starts == {0, 1, 2}
    assert training_starts(7, 7, 5, 3, 4) == [0, 0, 0, 0]


def test_PRN_007_calibration_windows_come_from_their_own_stream():
    key = counter_key(3, 4)
    assert calibration_starts(101, 13, 3, 5) == [draw(key, i) % 89 for i in range(5)]
    assert calibration_starts(101, 13, 3, 0) == []
    assert calibration_starts(101, 13, 3, 3) != training_starts(101, 13, 3, 1, 3)


@pytest.mark.parametrize(
    ("tokens", "length", "windows", "expected"),
    [
        (10, 4, 3, [0, 3, 6]),
        (10, 4, 4, [0, 2, 4, 6]),
        (10, 4, 5, [0, 1, 3, 4, 6]),  # 1.5 and 4.5
        (10, 4, 1, [0]),
        (10, 10, 3, [0, 0, 0]),
        (11, 10, 4, [0, 0, 0, 1]),
        (1001, 2, 2, [0, 999]),
        (10, 4, None, [0, 4]),
        (12, 4, None, [0, 4, 8]),
        (7, 4, None, [0]),
    ],
)
def test_EVL_001_evaluation_windows_are_spread_from_end_to_end_or_lie_side_by_side(tokens, length, windows, expected):
    assert evaluation_starts(tokens, length, windows) == expected


STARTS = [
    ("TRN-003", lambda n, length: training_starts(n, length, 0, 1, 1)),
    ("PRN-007", lambda n, length: calibration_starts(n, length, 0, 1)),
    ("EVL-002", lambda n, length: evaluation_starts(n, length, 1)),
]


@pytest.mark.parametrize(("clause", "starts"), STARTS, ids=[clause for clause, _ in STARTS])
def test_windows_that_a_text_cannot_give_are_refused(clause, starts):
    assert refused(lambda: starts(8, 9)).clause == clause
    assert refused(lambda: starts(0, 2)).clause == clause
    assert refused(lambda: starts(8, 1)).clause == clause
    assert refused(lambda: starts(8, 0)).clause == clause
    assert starts(9, 9) == [0]


def byte_tokenizer():
    """A tokenizer with a token a byte, and three of several bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)}
    for pair in ("th", "Ġt", "Ã¼"):  # of printable forms of bytes: "th", " t", "ü"
        vocabulary[pair] = len(vocabulary)
    merges = [("t", "h"), ("Ġ", "t"), ("Ã", "¼")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.mark.parametrize("text", ["the ü in tüte", "語 and 🙂🙃!", "e\u0301 👩‍👩‍👧", " two  spaces\n", "a"])
def test_GEN_009_pieces_are_whole_characters_and_make_up_the_text(text):
    tokenizer = byte_tokenizer()
    tokens = tokenizer.encode(text).ids
    pieces = list(written(iter(tokens), tokenizer))
    assert "".join(pieces) == text
    assert all(piece and "\ufffd" not in piece for piece in pieces)
    # one piece for each character at least: nothing waits longer than it must
    assert len(pieces) >= len(text) - 2 * text.count("th") - text.count(" t")


def test_GEN_009_pieces_come_as_soon_as_they_are_certain():
    tokenizer = byte_tokenizer()
    tokens = iter(tokenizer.encode("a🙂b").ids)
    taken = []

    def noted():
        for token in tokens:
            taken.append(token)
            yield token

    assert [(piece, len(taken)) for piece in written(noted(), tokenizer)] == [("a", 1), ("🙂", 5), ("b", 6)]


def test_GEN_009_bytes_that_are_no_character_are_shown_as_the_tokenizer_shows_them():
    tokenizer = byte_tokenizer()
    half = tokenizer.encode("🙂").ids[:2]
    for tokens in (half, [*half, *tokenizer.encode("ab").ids], [*half, *tokenizer.encode("ü").ids]):
        assert "".join(written(iter(tokens), tokenizer)) == tokenizer.decode(tokens)


def test_GEN_009_words_keep_the_spaces_between_them():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁the", -1.0), ("▁fox", -1.0), ("es", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    assert list(written(iter([1, 2, 3, 1]), tokenizer)) == ["the", " fox", "es", " the"]


def test_TRN_021_5_epochs_are_steps():
    examples = Examples([Example([0] * 5, [0] * 5)] * 7)
    assert [examples.steps(e, 4, 10) for e in (1, 2, 0.1, 4)] == [2, 4, 1, 7]
    assert replace(examples, packed=True).steps(2, 4, 10) == math.ceil(2 * 35 / 10 / 4)
    # 1.1 · 100 and 7 · (29 / 7) are a little more than a whole number in binary64
    assert Examples([Example([0] * 5, [0] * 5)] * 100).steps(1.1, 1, 10) == 110
    assert Examples([Example([0] * 29, [0] * 29)], packed=True).steps(7, 1, 7) == 29
    assert examples.steps(1e-9, 4, 10) == 1
