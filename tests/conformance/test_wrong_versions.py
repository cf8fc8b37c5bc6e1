"""The recorded wrong versions of the engine can still be made, so that the kit can be asked about them again."""

import json
from pathlib import PurePosixPath

from conformance.wrong.versions import PACKAGES, ROOT

RECORDS = json.loads((ROOT / "docs/results/wrong-versions.json").read_text(encoding="utf-8"))


def fault(record):
    """What keeps the edit of a record from being made; empty if nothing does."""
    parts = PurePosixPath(record["file"]).parts
    if parts[0] not in PACKAGES or ".." in parts or not (ROOT / record["file"]).is_file():
        return f"{record['file']} is no file of {' or '.join(PACKAGES)}"
    if record["old"] == record["new"]:
        return "old and new are the same"
    text = (ROOT / record["file"]).read_text(encoding="utf-8")
    if (n := text.count(record["old"])) != 1:
        return f"old stands {n} times in {record['file']}, not once"
    try:
        compile(text.replace(record["old"], record["new"]), record["file"], "exec")
    except SyntaxError as error:
        return f"the edited {record['file']} is no Python: {error}"
    return ""


def test_every_recorded_edit_can_be_made_and_leaves_valid_python():
    assert RECORDS
    assert {record["id"]: why for record in RECORDS if (why := fault(record))} == {}


def test_an_edit_that_cannot_be_made_is_told():
    record = {"file": "seft_ref/arrays/count.py", "old": "def count(", "new": "def counted("}
    assert fault(record) == ""
    assert "no file" in fault(record | {"file": "conformance/wrong/versions.py"})
    assert "no file" in fault(record | {"file": "seft_ref/../conformance/wrong/versions.py"})
    assert "no file" in fault(record | {"file": "seft_ref/no_such_file.py"})
    assert "the same" in fault(record | {"new": "def count("})
    assert "0 times" in fault(record | {"old": "no such text"})
    assert "no Python" in fault(record | {"new": "def ("})
