"""What tools/verify.py writes: looked at before anything runs, and no reason to keep a run's result from its user."""

import pytest

from conformance.cases.case import load_all
from conformance.command import app

UNWRITABLE = {
    "a report among other files": (("--report", "{tmp}/other"), "holds notes.txt, which is no part of a report"),
    "a report in place of a file": (("--report", "{tmp}/file"), "is no folder"),
    "a report below a file": (("--report", "{tmp}/file/report"), "is no folder"),
    "a manifest that is a folder": (("--write-expect", "{tmp}/other"), "is a folder; name a file"),
    "a manifest below a file": (("--write-expect", "{tmp}/file/x.toml"), "is no folder"),
    "a manifest that is none": (("--write-expect", "{tmp}/file"), "x is not known"),
    "expectations that are none": (("--expect", "{tmp}/file"), "x is not known"),
}


@pytest.mark.parametrize(
    "line", [("export", "{file}/x"), ("new-port", "python", "{file}/x"), ("self-test", "--page", "{file}/x")]
)
def test_a_place_below_a_file_is_refused_at_once(verify, tmp_path, line):
    (tmp_path / "file").write_text("mine")
    status, out, err = verify(*(word.format(file=tmp_path / "file") for word in line))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "is no folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_cannot_be_written_or_expected_is_told_before_anything_runs(verify, tmp_path, monkeypatch, case):
    arguments, said = UNWRITABLE[case]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("x = 1")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(app, "judge", lambda *_: pytest.fail("it runs"))
    status, out, err = verify("--backend", "numpy", *(word.format(tmp=tmp_path) for word in arguments))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_is_told_although_what_it_was_to_write_cannot_be_written(verify, tmp_path, monkeypatch):
    manifest, folder = tmp_path / "new" / "seft-expect.toml", tmp_path / "report"
    line = ("--backend", "numpy", "--only", "select.largest", "--examples", "0")
    line += ("--write-expect", manifest, "--report", folder)
    right = app.judge

    def meanwhile(*more):
        """Run, while somebody puts something where the report is to go."""
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
        return right(*more)

    monkeypatch.setattr(app, "judge", meanwhile)
    status, out, err = verify(*line)
    n = sum(case.op == "select.largest" for case in load_all())
    assert (status, out.splitlines()[-1]) == (2, f"{n} passed, 0 failed, 0 skipped")
    assert err == f"verify: {folder} holds notes.txt, which is no part of a report; name another folder\n"
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert manifest.is_file()  # what can be written is, in a folder that was missing
