"""Arguments of the five functions: of a wrong type, refused in words; and numbers of NumPy, which are taken."""

import json

import ml_dtypes
import numpy as np
import pytest

from seft_ref import evaluate, finetune, generate, prune, quantise, read_tokens, settings_of
from seft_ref.errors import ConfigError, SeftError
from tests.seft_ref.folders import TEXT, hf_folder, sparse_folder

SHORT = {"steps": 2, "length": 16, "batch": 2, "evolve_every": 2, "density": 0.05}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arguments")
    (folder / "text.txt").write_text(TEXT)
    sparse_folder(folder / "sparse")
    hf_folder(folder / "dense")
    return folder


@pytest.fixture(scope="module")
def tokens(place):
    return read_tokens(place / "text.txt", place / "sparse")


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda tokens: np.reshape(tokens[:400], (20, 20)), "an array of shape (20, 20)"),
        (lambda tokens: (token for token in tokens), "a generator"),
        (lambda tokens: [float(token) for token in tokens], "dtype float64"),
        (lambda tokens: np.array(tokens, ml_dtypes.bfloat16), "dtype bfloat16"),
        (lambda tokens: [True] * 100, "dtype bool"),
        (lambda tokens: ["the"] * 100, "dtype <U3"),
        (lambda tokens: [tokens[:5], tokens[:6]], "no array"),
        (lambda tokens: None, "a NoneType"),
        (lambda tokens: set(tokens), "a set"),
    ],
)
def test_tokens_are_one_sequence_of_whole_numbers(place, tokens, made, told):
    for call in (
        lambda text: finetune(place / "sparse", None, text, **SHORT),
        lambda text: evaluate(place / "sparse", text, length=16),
    ):
        with pytest.raises(ValueError, match="one sequence of whole numbers") as error:
            call(made(tokens))
        assert told in str(error.value)


@pytest.mark.parametrize("kind", [tuple, np.array, lambda tokens: np.array(tokens, np.uint16), bytes])
def test_tokens_of_any_kind_of_sequence_are_the_same_text(place, tokens, kind):
    one, other = (evaluate(place / "sparse", text, length=16) for text in (tokens, kind(tokens)))
    assert one == other


def test_numbers_of_numpy_are_numbers_and_the_written_files_hold_them(place, tokens, tmp_path):
    changes = {"steps": np.int64(2), "length": np.uint8(16), "batch": np.int32(2), "density": np.float64(0.05)}
    changes |= {"evolve_every": np.int16(2), "lr": np.float32(0.25), "eps": np.float64(1e-8)}
    finetune(place / "sparse", tmp_path / "out", np.array(tokens), save_every=np.int64(1), **changes)
    finetune(place / "sparse", tmp_path / "same", tokens, **SHORT, lr=0.25)
    files = [path.name for path in (tmp_path / "out").iterdir()]
    assert all((tmp_path / "out" / name).read_bytes() == (tmp_path / "same" / name).read_bytes() for name in files)
    pruned = {"text": tokens, "samples": np.int64(2), "length": np.int32(32), "seed": np.uint64(3)}
    prune(place / "dense", tmp_path / "pruned", "wanda", np.float32(0.5), **pruned)
    record = json.loads((tmp_path / "pruned" / "pruning.json").read_text())
    assert (record["sparsity"], record["calibration"]) == (0.5, {"samples": 2, "length": 32, "seed": 3})


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("steps", "2", "a whole number"),
        ("steps", 2.0, "a whole number"),
        ("steps", True, "a whole number"),
        ("lr", "0.1", "a number"),
        ("seed", None, "a whole number"),
    ],
)
def test_TRN_008_a_setting_of_another_type_is_refused(name, value, told):
    with pytest.raises(ConfigError, match=f"TRN-008: {name} is .*, must be {told}"):
        settings_of("seft", **{name: value})


def test_other_arguments_of_a_wrong_type_are_refused_by_name(place, tokens, tmp_path):
    sparse, dense, out = place / "sparse", place / "dense", tmp_path / "out"
    calls = {
        "save_every is 1.5": lambda: finetune(sparse, out, tokens, save_every=1.5, **SHORT),
        "stop_after is '3'": lambda: finetune(sparse, out, tokens, stop_after="3", **SHORT),
        "settings are a dict": lambda: finetune(sparse, out, tokens, {"steps": 3}),
        "sparsity is '0.5'": lambda: prune(dense, out, "wanda", "0.5", text=tokens),
        "samples is 1.5": lambda: prune(dense, out, "wanda", text=tokens, samples=1.5),
        "outlier is 'x'": lambda: prune(dense, out, "wanda", text=tokens, outlier="x"),
        "pattern \\(2, 4\\)": lambda: prune(dense, out, "magnitude", pattern=(2, 4)),
        "seed is 'x'": lambda: quantise(sparse, out, "int8", text=tokens, seed="x"),
        "length is 16.0": lambda: evaluate(sparse, tokens, length=16.0),
        "windows is '3'": lambda: evaluate(sparse, tokens, length=16, windows="3"),
        "max_tokens is 2.5": lambda: generate(sparse, "the", max_tokens=2.5),
        "the prompt is a list": lambda: generate(sparse, [1, 2]),
    }
    for told, call in calls.items():
        with pytest.raises((ValueError, SeftError), match=told):
            call()
    assert list(tmp_path.iterdir()) == []
