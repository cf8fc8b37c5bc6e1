"""What seft check says beside broken rules, and what is said of files that are cut or not listed."""

from pathlib import Path

import pytest

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
