"""What seft check says beside broken rules, and what is said of files that are cut or not listed."""

import errno
from pathlib import Path

import numpy as np
import pytest

import formats
from formats import Checkpoint, Dense
from formats.steps import Publisher
from seft_cli import console
from tests.seft_ref.folders import hf_folder

FIXTURES = Path(__file__).resolve().parents[1] / "formats" / "fixtures"


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("adapters/super-tuning", "is of the format super-tuning; seft convert {} DST --to delta --base MODEL"),
        (
            "compressed_tensors/0.9.0-sparse-bitmask",
            "is a folder of compressed-tensors; seft convert {} DST --to sparse",
        ),
        ("weight-sync/xor-adler32/weight_v000001", "is a version folder; seft apply BASE {} OUT"),
        ("weight-sync", "holds no checkpoint; name a folder or file that seft convert wrote"),
    ],
)
def test_a_folder_of_another_format_is_named(cli, folder, words):
    path = FIXTURES / folder
    code, out, err = cli("check", path)
    assert (code, out) == (2, "")
    assert f"error: {path} {words.format(path)}" in err


def test_a_folder_of_versions_names_the_last(cli, tmp_path):
    with Publisher(tmp_path / "steps", "run") as publisher:
        for value in range(3):
            publisher.publish(Checkpoint("model", {"w": Dense(np.full((2, 2), value, np.float32))}))
    code, _, err = cli("check", tmp_path / "steps")
    assert (code, "is no checkpoint but holds 3; name one, such as" in err) == (2, True)
    last = err.strip().rsplit(" ", 1)[1]
    assert Path(last).name == "000002.delta"
    assert cli("check", last)[0] == 0


def test_a_model_without_tensors_is_told_of(cli, tmp_path):
    formats.write(tmp_path / "s", Checkpoint("model", {}))
    code, _, err = cli("convert", tmp_path / "s", tmp_path / "hf", "--to", "hf")
    assert (code, err) == (0, f"{tmp_path / 's'} holds no tensors\n")


def test_files_that_a_checkpoint_does_not_list_are_named_wherever_they_are_left_out(cli, tmp_path):
    dense = hf_folder(tmp_path / "dense")
    cli("convert", dense, tmp_path / "s", "--to", "sparse")
    cli("convert", dense, tmp_path / "t", "--to", "sparse")
    (tmp_path / "s" / "added.json").write_text("{}")
    (tmp_path / "s" / ".hidden").write_text("")
    told = "left out, because the checkpoint does not list it: added.json\n"
    for arguments in (
        ("convert", tmp_path / "s", tmp_path / "hf", "--to", "hf"),
        ("convert", tmp_path / "s", tmp_path / "s2", "--to", "sparse"),
    ):
        code, _, err = cli(*arguments)
        assert (code, err) == (0, told)
    code, out, err = cli("check", tmp_path / "s")
    assert (code, "no rule is broken" in out) == (0, True)
    assert err == "the checkpoint does not list added.json; seft convert and seft apply leave it out\n"
    assert cli("check", tmp_path / "t")[2] == ""


def test_a_file_that_is_cut_is_said_to_be(cli, tmp_path):
    dense = hf_folder(tmp_path / "dense")
    cli("convert", dense, tmp_path / "s", "--to", "sparse")
    for folder, file in ((tmp_path / "s", "model.sparse.safetensors"), (dense, "model.safetensors")):
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[:-100])
        code, _, err = cli("convert", folder, tmp_path / "out", "--to", "sparse")
        assert (code, "the file is cut, copy it again" in err) == (2, True), err
    (tmp_path / "s" / "model.sparse.safetensors").write_bytes(b"")
    assert "copy it again" in cli("convert", tmp_path / "s", tmp_path / "out", "--to", "hf")[2]


def test_a_file_of_weights_alone_is_sent_to_its_folder(cli, tmp_path):
    dense = hf_folder(tmp_path / "dense")
    file = dense / "model.safetensors"
    for arguments in (("show", file), ("convert", file, tmp_path / "out", "--to", "sparse")):
        code, _, err = cli(*arguments)
        assert code == 2
        assert str(dense) in err.replace(str(file), "")


def test_an_error_in_a_chain_names_the_delta(cli, tmp_path):
    dense = hf_folder(tmp_path / "dense")
    cli("convert", dense, tmp_path / "base", "--to", "sparse")
    cli("prune", dense, tmp_path / "pruned", "--method", "magnitude")
    cli("convert", tmp_path / "pruned", tmp_path / "next", "--to", "sparse")
    assert cli("diff", tmp_path / "base", tmp_path / "next", tmp_path / "delta")[0] == 0
    file = tmp_path / "delta" / "model.sparse.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    code, _, err = cli("apply", tmp_path / "base", tmp_path / "delta", tmp_path / "out")
    assert (code, f"FMT-035: {tmp_path / 'delta'}: " in err) == (2, True)


def test_a_dense_target_of_a_sparse_base_is_remarked(cli, tmp_path):
    dense = hf_folder(tmp_path / "dense")
    cli("prune", dense, tmp_path / "pruned", "--method", "magnitude")
    cli("convert", tmp_path / "pruned", tmp_path / "base", "--to", "sparse")
    code, _, err = cli("diff", tmp_path / "base", dense, tmp_path / "delta")
    assert (code, f"{dense} is dense, so the delta stores its zeros" in err) == (0, True)


def test_a_full_disk_is_told_with_what_to_do():
    error = OSError(errno.ENOSPC, "No space left on device", "out")
    assert console.told(error).endswith("make room, or write to another disk")
