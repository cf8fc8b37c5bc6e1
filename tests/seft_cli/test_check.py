"""seft check says what a folder is that it does not judge, and what reads it."""

from pathlib import Path

import pytest

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
