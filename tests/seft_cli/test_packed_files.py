"""Packed files (FMT-177) on the command line: every command that reads or writes a checkpoint takes them."""

import formats
from tests.formats.test_packed import models


def test_FMT_177_the_commands_read_and_write_packed_files(tmp_path, cli):
    before, after = (str(tmp_path / name) for name in ("before", "after"))
    for path, model in zip((before, after), models(4), strict=True):
        formats.write(path, model)
    step, arrived, whole = (str(tmp_path / name) for name in ("step.zst", "arrived", "after.zst"))
    for words in (
        ("diff", before, after, step, "--compress", "file", "--verify"),
        ("check", step),
        ("show", step),
        ("apply", before, step, arrived),
        ("convert", after, whole, "--to", "sparse", "--compress", "file", "--verify"),
        ("apply", before, step, str(tmp_path / "arrived.zst"), "--compress", "file"),
    ):
        code, _, err = cli(*words)
        assert (code, err) == (0, ""), words
    code, _, err = cli("diff", whole, arrived, str(tmp_path / "none"))
    assert code == 2
    assert "same model" in err
    assert (tmp_path / "arrived.zst").read_bytes() == (tmp_path / "after.zst").read_bytes()


def test_FMT_177_a_name_that_others_would_read_differently(tmp_path, cli):
    before, after = (str(tmp_path / name) for name in ("before", "after"))
    for path, model in zip((before, after), models(1), strict=True):
        formats.write(path, model)
    code, _, err = cli("diff", before, after, str(tmp_path / "x.safetensors"), "--compress", "file")
    assert code == 2
    assert "ends in .zst" in err
    assert not (tmp_path / "x.safetensors").exists()


def test_FMT_177_a_damaged_packed_file(tmp_path, cli):
    path = tmp_path / "step.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    for command in ("check", "show"):
        code, out, err = cli(command, str(path))
        assert code in (1, 2)
        assert "FMT-177" in out + err
