"""The archive of cases: the same bytes every time, as its schemas say, and read by a program that knows no Python."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from conformance.cases.case import load_all
from conformance.cases.inputs import prepared_inputs, same_values
from conformance.command import export
from conformance.command.export import ARCHIVE, SCHEMAS
from conformance.judge.slack import bound_of
from conformance.protocol.values import decode
from conformance.report import FILES
from conformance.report.folder import write as write_report
from tests.conformance.report_runs import failed, passed, run_of, whole

READER = Path(__file__).with_name("reader.mjs")
FOLDER = ARCHIVE.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Every case in the archive of this revision, and the folder that it unpacks to."""
    path = tmp_path_factory.mktemp("archive") / ARCHIVE
    export.write(path, load_all())
    with tarfile.open(path) as tar:
        tar.extractall(path.parent, filter="data")
    return path


def test_the_archive_is_the_same_whoever_writes_it_and_when(archive, verify, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    before = os.umask(0o077)
    try:
        status, out, err = verify("export")
    finally:
        os.umask(before)
    assert (status, out, err) == (0, f"wrote {len(load_all())} cases to {ARCHIVE}\n", "")
    assert ARCHIVE.read_bytes() == archive.read_bytes()
    digest = hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()
    assert Path(f"{ARCHIVE}.sha256").read_text() == f"{digest}  {ARCHIVE}\n"
    with tarfile.open(ARCHIVE) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert {m.name.split("/")[0] for m in members} == {FOLDER}


def test_an_archive_of_some_cases_has_a_name_of_its_own(verify, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = verify("export", "--only", "select.largest")
    assert (status, err.count("\n")) == (2, 1)
    assert "name the archive" in err
    assert verify("export", "some.tar.gz", "--only", "select.largest")[0] == 0
    with tarfile.open("some.tar.gz") as tar:
        assert [m.name for m in tar if "/cases/" in m.name] == [f"{FOLDER}/cases/select.largest.json"]
    status, _, err = verify("export", "some.tar.gz")
    assert (status, err) == (2, "verify: some.tar.gz exists; name one that does not\n")


def check(schema, *instances):
    """Raise if an instance breaks a schema of the kit."""
    content = json.loads((SCHEMAS / f"{schema}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(content)
    validator = Draft202012Validator(content)
    for instance in instances:
        validator.validate(instance)
    return validator


def test_every_file_of_the_archive_fits_its_schema_and_is_named_with_its_digest(archive):
    root = archive.parent / FOLDER
    index, operations = (json.loads((root / f"{name}.json").read_text("utf-8")) for name in ("index", "operations"))
    check("index", index)
    check("operations", operations)
    check("cases", *(json.loads(path.read_text("utf-8")) for path in (root / "cases").iterdir()))
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    assert files.keys() == {*index["files"], "index.json"}
    assert all(hashlib.sha256(files[name].read_bytes()).hexdigest() == one for name, one in index["files"].items())
    assert {name.split("/")[-1].split(".")[0] for name in files if name.startswith("schemas/")} == set(export.KINDS)


def test_the_archive_has_every_case_of_every_vector_file_with_its_values(archive):
    rows = [
        row for path in (archive.parent / FOLDER / "cases").iterdir() for row in json.loads(path.read_text("utf-8"))
    ]
    by_id = {row["id"]: row for row in rows}
    assert len(rows) == len(by_id) == len(load_all())
    for case in load_all():
        row = by_id[case.id]
        inputs = {name: value for name, value in prepared_inputs(case, "float64").items() if value is not None}
        assert same_values({name: decode(value) for name, value in row["in"].items()}, inputs), case.id
        assert same_values({name: decode(value) for name, value in row.get("out", {}).items()}, case.expected), case.id
        assert row.get("rejected", []) == list(case.refused)
        assert row.get("zeros", []) == list(case.zeros)
        assert row.get("bounds", {}).keys() == case.bounds.keys()
        for name, bound in row.get("bounds", {}).items():
            want = bound_of(case, name)
            assert bound["terms"] == want.terms
            assert same_values(decode(bound["gauge"]), want.gauge.astype("float64")), case.id
            assert ("slack" in bound) == bool((want.slack != 0) if isinstance(want.slack, float) else want.slack.any())


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ("cases", [{"id": "a.b"}]),
        (
            "cases",
            [{"id": "a.b", "op": "a.b", "clauses": ["SEL-001"], "purpose": "x", "dtypes": ["float64"], "in": {}}],
        ),
        ("index", {"spec": "1.0"}),
        ("operations", {"operations": {}}),
        ("report", {"type": "footer"}),
        ("summary", {"report": 2}),
    ],
)
def test_a_schema_refuses_what_it_does_not_describe(schema, wrong):
    assert not check(schema).is_valid(wrong)


@pytest.mark.parametrize("value", [0.5, {"f64": "1.5"}, {"dtype": "f64", "shape": [-1], "b64": ""}, {"a": 1}, 2**53])
def test_the_schema_of_cases_refuses_what_is_no_value(archive, value):
    (case, *_) = json.loads((archive.parent / FOLDER / "cases" / "count.drop.json").read_text("utf-8"))
    assert check("cases").is_valid([case])
    assert not check("cases").is_valid([case | {"in": {"steps": value}}])


def test_reports_fit_their_schemas(tmp_path):
    for number, run in enumerate((whole(), run_of([failed(), passed(load_all()[0])]), run_of(filtered="--only x"))):
        write_report(run, tmp_path / str(number))
        report, summary = ((tmp_path / str(number) / name).read_text() for name in FILES[:2])
        check("report", *map(json.loads, report.splitlines()))
        check("summary", json.loads(summary))


@pytest.mark.parametrize(
    ("right", "wrong", "fails"),
    [
        ("", "", ""),
        ("ids[a] < ids[b] ? -1 : 1)", "ids[a] > ids[b] ? -1 : 1)", "select.largest: "),
        ("31n", "30n", "rng.draws: "),
        ('"TOP-003"', '"TOP-002"', "change.source: "),
        ("+ 2 ** -20", "", "count.budget: "),
    ],
)
def test_a_reader_in_javascript_answers_from_the_archive_alone(archive, tmp_path, right, wrong, fails):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, which runs the reader in JavaScript")
    source = READER.read_text(encoding="utf-8")
    assert right in source
    assert len(source.splitlines()) <= 100
    (tmp_path / "reader.mjs").write_text(source.replace(right, wrong), encoding="utf-8")
    command = [node, tmp_path / "reader.mjs", archive]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True, check=False)
    counts = re.findall(r"^(\S+ )(\d+) of (\d+)", done.stdout, re.MULTILINE)
    assert len(counts) == 5, done.stderr
    assert [op for op, n, of in counts if n != of] == ([fails] if fails else [])
    assert done.returncode == bool(fails)


def test_a_reader_in_javascript_refuses_a_damaged_archive(archive, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, which runs the reader in JavaScript")
    with tarfile.open(archive) as tar, tarfile.open(tmp_path / "damaged.tar.gz", "w:gz") as bad:
        for member in tar:
            content = tar.extractfile(member)
            if member.name.endswith("rng.draws.json"):
                content.seek(0)
                member.size -= 1
            bad.addfile(member, content)
    done = subprocess.run([node, READER, tmp_path / "damaged.tar.gz"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cases/rng.draws.json is damaged" in done.stderr
