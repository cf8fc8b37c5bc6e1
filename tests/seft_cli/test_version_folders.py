"""Version folders on the command line: applied in a chain, shown, and refused as models, as deltas are (FMT-168)."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import formats
from formats import Checkpoint, Dense, delta
from formats.dialects.hf import open_hf
from formats.dialects.weight_sync import write_weight_sync
from tests.seft_cli.test_convert import pruned, same_weights
from tests.seft_cli.test_json import assert_as_told, tables
from tests.seft_ref.folders import TEXT, hf_folder, sparse_folder
from tests.seft_ref.task_files import data_folder

pytest.importorskip("zstandard")


@pytest.fixture
def steps(tmp_path):
    """Four models of Hugging Face, m0 to m3, and the folders that lead from each to the next."""
    states = [pruned(i) for i in range(4)]
    folders = []
    for i, tensors in enumerate(states):
        hf_folder(tmp_path / f"m{i}", tensors=tensors)
        if i:
            ends = (Checkpoint("model", {n: Dense(v) for n, v in of.items()}) for of in states[i - 1 : i + 1])
            folders.append(tmp_path / f"weight_v{i:06d}")
            write_weight_sync(folders[-1], *ends, encoding=("xor", "overwrite")[i % 2], checksum="adler32")
    return folders


@pytest.mark.parametrize("kind", ["hf", "sparse"])
def test_apply_takes_version_folders(cli, tmp_path, steps, kind):
    base = tmp_path / "m0"
    if kind == "sparse":
        base = tmp_path / "sparse0"
        assert cli("convert", tmp_path / "m0", base, "--to", "sparse")[0] == 0
    code, _, err = cli("apply", base, *steps, tmp_path / "out")
    assert code == 0, err
    if kind == "sparse":
        assert cli("convert", tmp_path / "out", tmp_path / "back", "--to", "hf")[0] == 0
    assert same_weights(tmp_path / ("out" if kind == "hf" else "back"), tmp_path / "m3")
    assert (tmp_path / "out" / "config.json").read_bytes() == (tmp_path / "m0" / "config.json").read_bytes()


def test_apply_mixes_them_with_deltas(cli, tmp_path, steps):
    with open_hf(tmp_path / "m1") as before, open_hf(tmp_path / "m2") as after:
        formats.write(tmp_path / "d", delta.diff(before.checkpoint(), after.checkpoint()))
    code, _, err = cli("apply", tmp_path / "m0", steps[0], tmp_path / "d", steps[2], tmp_path / "out")
    assert code == 0, err
    assert same_weights(tmp_path / "out", tmp_path / "m3")


@pytest.mark.parametrize(
    ("order", "told"),
    [((0, 2), "ends at version 000001; give every folder"), ((1, 2), "give the model of version 000001 as the base")],
)
def test_FMT_168_11_a_wrong_chain_leaves_nothing(cli, tmp_path, steps, order, told):
    before = sorted(path.name for path in tmp_path.iterdir())
    code, _, err = cli("apply", tmp_path / "m0", *(steps[i] for i in order), tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "FMT-168" in err
    assert told in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_show_says_what_a_version_folder_is(cli, tmp_path, steps):
    code, out, _ = cli("show", steps[2])
    assert code == 0
    assert "version folder" in out
    assert "leads from version 000002 to 000003: overwrite, zstd, adler32" in out
    code, out, _ = cli("show", steps[1], "--json")
    told = json.loads(out)
    of_all, of_tensor = tables("seft.show/1")
    assert_as_told(told, of_all, "version folder")
    for tensor in told["tensors"].values():
        assert_as_told(tensor, of_tensor)
    assert told["version"] == {
        "version": "000002",
        "base_version": "000001",
        "delta_encoding": "xor",
        "compression_format": "zstd",
        "checksum_format": "adler32",
    }
    before, after = pruned(1), pruned(2)
    assert sorted(told["tensors"]) == sorted(n for n in before if not np.array_equal(before[n], after[n]))


@pytest.mark.parametrize("command", ["eval --text", "eval --tasks", "generate", "finetune", "prune"])
def test_FMT_168_10_a_command_for_models_says_what_it_is(cli, tmp_path, steps, command):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    folder, out = steps[0], tmp_path / "out"
    if command == "eval --tasks":
        arguments = (folder, "--tasks", "piqa", "--data", data_folder(tmp_path / "data", 5))
    else:
        arguments = {
            "eval --text": (folder, "--text", text),
            "generate": (folder, "a"),
            "finetune": (folder, out, "--text", text),
            "prune": (folder, out, "--method", "magnitude"),
        }[command]
    code, _, err = cli(command.split()[0], *arguments)
    assert (code, "FMT-168" in err) == (2, True), err
    assert f"make one: seft apply BASE {folder} OUT" in err
    assert not out.exists()


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """A model, a text, and what changes the model in three forms."""
    place = tmp_path_factory.mktemp("changes")
    before = formats.read(sparse_folder(place / "base"))
    norm = formats.Dense(before.tensors["model.norm.weight"].values * 2)
    step = delta.diff(before, replace(before, tensors={**before.tensors, "model.norm.weight": norm}))
    formats.write(place / "delta", step)
    formats.write(place / "delta.zst", step, compress="file")
    formats.convert(place / "delta", place / "weight_v000001", "weight-sync", base=place / "base")
    (place / "text").write_text(TEXT)
    return place


WANT_A_MODEL = {
    "generate": ("generate", "DELTA", "hi"),
    "generate in chat": ("generate", "DELTA", "hi", "--chat"),
    "eval": ("eval", "DELTA", "--text", "text"),
    "finetune": ("finetune", "DELTA", "OUT", "--text", "text"),
    "prune": ("prune", "DELTA", "OUT", "--method", "magnitude", "--sparsity", "0.5"),
    "quantise": ("prune", "DELTA", "OUT", "--quantize", "int4"),
    "convert to hf": ("convert", "DELTA", "OUT", "--to", "hf"),
    "convert to torch-csr": ("convert", "DELTA", "OUT", "--to", "torch-csr"),
    "convert to gptq": ("convert", "DELTA", "OUT", "--to", "gptq"),
    "diff": ("diff", "base", "DELTA", "OUT"),
    "apply": ("apply", "DELTA", "delta", "OUT"),
}
"""Commands that want a model where DELTA stands."""


@pytest.mark.parametrize("form", ["delta", "delta.zst", "weight_v000001"])
@pytest.mark.parametrize("command", WANT_A_MODEL)
def test_CKP_002_a_delta_in_place_of_a_model_is_told_to_be_applied(cli, changes, tmp_path, command, form):
    words = {"DELTA": changes / form, "OUT": tmp_path / "out"}
    words |= {name: changes / name for name in ("base", "text", "delta")}
    code, out, err = cli(*(words.get(word, word) if i else word for i, word in enumerate(WANT_A_MODEL[command])))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(r"seft apply BASE (DELTA|\S+) OUT$", err.strip()), err
    assert list(tmp_path.iterdir()) == []
