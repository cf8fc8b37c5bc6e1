"""The folder of a report: golden small ones, whole or not at all, and read by what reads such files."""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from conformance.judge.harness import Result
from conformance.judge.judgement import PropertyResult
from conformance.report import FILES, ReportError, folder, write
from conformance.report.junit import junit
from conformance.report.markdown import markdown
from conformance.report.summary import as_summary, badge, clause_rows, op_rows
from conformance.report.words import tidy
from tests.conformance.report_runs import LARGEST, STEP, all_cases, broken, failed, passed, run_of, whole

GOLDEN_LINES = [
    {
        "type": "case",
        "id": "select.largest-ties",
        "op": "select.largest",
        "clauses": ["SEL-001"],
        "profiles": ["core"],
        "outcome": "fail",
        "ran": 2,
        "ratio": 0.0,
        "seconds": 0.002,
        "reason": "",
        "skipped": "",
        "waived": "",
        "failures": [
            {
                "variant": "small float32",
                "output": "chosen",
                "status": "fail",
                "detail": "at [0] expected 7, got 9",
                "ratio": None,
            }
        ],
    },
    {
        "type": "property",
        "id": "select.order",
        "clauses": ["SEL-001"],
        "profile": "core",
        "outcome": "passed",
        "examples": 100,
        "seconds": 0.5,
        "skipped": "",
        "failure": "",
        "waived": "",
        "artifact": None,
        "counts": {},
        "asked_new": [],
    },
    {
        "type": "footer",
        "cases": 1,
        "properties": 1,
        "outcomes": {"fail": 1},
        "property_outcomes": {"passed": 1},
        "passed": 1,
        "failed": 1,
        "skipped": 0,
    },
]
GOLDEN_JUNIT = """\
<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="small 1" tests="3" failures="1" errors="0" skipped="1" time="0.003">
  <testsuite name="core" tests="3" failures="1" errors="0" skipped="1" time="0.003" timestamp="2026-01-02T03:04:05Z">
    <testcase classname="core.select.largest" name="select.largest-ties" time="0.002000">\
<failure message="small float32: chosen at [0] expected 7, got 9" type="fail">\
meant to catch: ties by the highest id
clauses: SEL-001
small float32: chosen at [0] expected 7, got 9</failure></testcase>
    <testcase classname="core.adamw.step" name="adamw.one" time="0.001000"/>
    <testcase classname="core.adamw.step" name="adamw.one" time="0.000000">\
<skipped message="blocked: it rests on others"/></testcase>
  </testsuite>
</testsuites>
"""
GOLDEN_MARKDOWN = """\
# small 1: not conformant: core: 1 fail of 2 (SPEC 1.0, kit 1.0-r1)

1 passed, 1 failed, 0 skipped.
SPEC.md 00, kit 1.0-r1 11, seed `0a`.

- core: 1 fail of 2

| profile | cases | pass | fail | properties | holds |
|---|---|---|---|---|---|
| core | 2 | 1 | 1 |  | no |

- `adamw.step` used 90% of its bound in `adamw.one`

## Failures

- **select.largest-ties** (fail): ties by the highest id
  - SEL-001
  - small float32: chosen at \\[0\\] expected 7, got 9
  - `seft verify --port ./my_port --only select.largest-ties`
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_golden_lines(tmp_path):
    order = PropertyResult("select.order", ("SEL-001",), "core", 100, seconds=0.5)
    write(run_of([failed()], properties=[order]), tmp_path / "out")
    header, *rest = rows_of(tmp_path / "out" / "report.jsonl")
    assert rest == GOLDEN_LINES
    assert header["verdict"] == {
        "line": "not conformant: core: 1 fail of 1 (SPEC 1.0, kit 1.0-r1)",
        "conformant": False,
        "met": False,
        "reasons": ["core: 1 fail of 1"],
        "claimable": [],
        "classes": {},
        "badge": "not conformant",
        "status": 1,
    }
    assert header["options"] == {
        "profiles": ["core"],
        "classes": ["exact64", "fp32"],
        "filtered": "",
        "command": ["--port ./my_port"],
    }
    assert (header["type"], header["spec"], header["kit"], header["seed"]) == ("header", "1.0", "1.0-r1", "0a")


def test_golden_junit():
    blocked = Result(STEP, reason="blocked", skipped="it rests on others")
    assert junit(run_of([failed(), passed(STEP), blocked])) == GOLDEN_JUNIT


def test_golden_markdown():
    assert markdown(run_of([failed(), passed(STEP, 0.9)], spec_sha256="00", kit_sha256="11")) == GOLDEN_MARKDOWN


def test_a_property_in_markdown_says_what_has_to_hold_by_which_clauses():
    order = PropertyResult(
        "select.order", ("SEL-001",), "core", 5, failure="at 0 expected 3, got 4", text="It is sorted"
    )
    assert markdown(run_of(properties=[order])).endswith(
        "- **select.order** (property): It is sorted\n  - SEL-001\n  - at 0 expected 3, got 4\n"
    )


def test_the_badge_is_all_that_was_asked_for_or_nothing():
    good = whole()
    assert badge(good) == {
        "schemaVersion": 1,
        "label": "SEFT",
        "message": "1.0 nm exact64+fp32, some by frozen cases only",
        "color": "brightgreen",
    }
    for partial in (replace(good, filtered="--quick"), replace(good, fresh=False)):
        assert (badge(partial)["message"], badge(partial)["color"]) == ("no claim", "lightgrey")
    for bad in (
        replace(broken(1), filtered="--quick"),
        replace(broken(1), fresh=False),
        replace(good, profiles=("nm", "layers")),
        replace(good, profiles=()),
        replace(good, complaints=["x"]),
        broken(1),
    ):
        assert badge(bad)["message"] == "not conformant"
    forgiven = failed()
    forgiven.waived = "https://example.org/1"
    assert run_of([forgiven]).verdict().met
    assert badge(run_of([forgiven]))["message"] == "not conformant"


def test_the_folder_has_all_files(tmp_path):
    for name, run in {"good": whole(), "bad": broken()}.items():
        write(run, tmp_path / "deep" / name)
        assert sorted(path.name for path in (tmp_path / "deep" / name).iterdir()) == sorted(FILES)
    assert names(tmp_path / "deep") == ["bad", "good"]


def test_a_run_of_nothing_is_written(tmp_path):
    write(run_of(), tmp_path / "out")
    assert rows_of(tmp_path / "out" / "report.jsonl")[-1]["cases"] == 0
    write(run_of(filtered="--only 'x*'"), tmp_path / "out")
    assert ET.parse(tmp_path / "out" / "junit.xml").getroot().get("tests") == "0"
    write(run_of(profiles=(), classes=(), clauses={}, coverage=[], port={}), tmp_path / "out")


def test_an_earlier_report_is_replaced_and_nothing_else(tmp_path):
    write(whole(), tmp_path / "out")
    write(broken(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "badge.json").read_text())["message"] == "not conformant"
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(ReportError, match=r"mine\.txt"):
        write(whole(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "badge.json").read_text())["message"] == "not conformant"
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(ReportError, match="no folder"):
            write(whole(), tmp_path / name)
    assert names(tmp_path) == ["file", "link", "out"]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("breaks", ["write", "rename"])
def test_a_write_that_breaks_leaves_what_was_there(tmp_path, monkeypatch, earlier, breaks):
    if earlier:
        write(whole(), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    real_write, real_rename, left = folder.write_bytes, Path.rename, [3]

    def full(path, data):
        left[0] -= 1
        if not left[0]:
            raise OSError(28, "No space left on device")
        real_write(path, data)

    def refused(path, to):
        if ".tmp-" in path.name:
            raise OSError(28, "No space left on device")
        return real_rename(path, to)

    if breaks == "write":
        monkeypatch.setattr(folder, "write_bytes", full)
    else:
        monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="No space"):
        write(broken(), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert names(tmp_path) == ["out"] * earlier


def test_a_page_that_cannot_be_made_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(whole(), tmp_path / "out")
    assert names(tmp_path) == []


# what Jenkins, GitLab and GitHub actions take: element, its attributes that must and may be there, its children
JUNIT = {
    "testsuites": ({"tests", "failures", "errors"}, {"name", "time", "skipped"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped", "time"}, {"timestamp"}, {"testcase"}),
    "testcase": ({"name", "classname", "time"}, set(), {"failure", "error", "skipped"}),
    "failure": ({"message", "type"}, set(), set()),
    "error": ({"message", "type"}, set(), set()),
    "skipped": ({"message"}, set(), set()),
}


def test_junit_is_what_ci_systems_read():
    run = broken()
    run.complaints.append("select.x matches no case")
    root = ET.fromstring(junit(run))
    for element in root.iter():
        must, may, children = JUNIT[element.tag]
        assert must <= set(element.keys()) <= must | may
        assert {child.tag for child in element} <= children
    for one in (root, *root):
        count = {tag: len(list(one.iter(tag))) for tag in ("testcase", "failure", "error", "skipped")}
        told = (one.get("tests"), one.get("failures"), one.get("errors"), one.get("skipped"))
        assert told == tuple(str(count[tag]) for tag in ("testcase", "failure", "error", "skipped"))
    verdict = run.verdict()
    assert int(root.get("tests")) == verdict.passed + verdict.failed + verdict.skipped
    assert int(root.get("failures")) + int(root.get("errors")) == verdict.failed


def test_summary_counts_clauses_and_bounds():
    run = run_of([failed(), passed(STEP, 0.9)])
    told = as_summary(run, 1)
    assert (told["passed"], told["failed"], told["skipped"], told["failures"]) == (1, 1, 0, ["select.largest-ties"])
    assert told["clauses"]["SEL-001"] == {"level": "MUST", "outcome": "failed", "cases": 1}
    assert told["clauses"]["OPT-002"]["outcome"] == "passed"
    assert told["clauses"]["FMT-001"]["outcome"] == "not asked"
    assert told["clauses"]["PRT-001"]["outcome"] == "no case"
    assert told["bounds_used"] == {"adamw.step": {"used": 0.9, "case": "adamw.one"}}
    assert op_rows(run)[0].marginal
    assert not op_rows(run_of([passed(STEP, 0.8)]))[0].marginal
    json.dumps(told, allow_nan=False)


def test_a_clause_is_as_good_as_the_worst_of_its_cases():
    def outcome(*results, **more):
        return next(row.outcome for row in clause_rows(run_of(results, **more)) if row.id == "SEL-001")

    blocked, forgiven = Result(LARGEST, reason="blocked"), failed()
    forgiven.waived = "https://example.org/1"
    assert outcome(passed(LARGEST), passed(LARGEST)) == "passed"
    assert outcome(passed(LARGEST), blocked) == "partly"
    assert outcome(blocked) == "not judged"
    assert outcome(passed(LARGEST), blocked, forgiven) == "waived"
    assert outcome(passed(LARGEST), blocked, forgiven, failed()) == "failed"
    assert outcome(properties=[PropertyResult("a.b", ("SEL-001",), "core", 1, failure="x")]) == "failed"


HOSTILE = "<script>alert(1)</script> ]]> \x00\x1b[31m \ud800 \u202e \ufffe | ` * [a](javascript:x) &amp; '\" \n\n# x"


@pytest.fixture
def hostile():
    long = failed(detail=HOSTILE + "x" * 1_000_000, output=HOSTILE, got={HOSTILE: [HOSTILE, np.array([np.nan])]})
    long.failures[0] = replace(long.failures[0], variant=HOSTILE)
    forgiven, blocked = failed(), Result(STEP, skipped=HOSTILE, reason="blocked")
    forgiven.waived = HOSTILE
    deep = []
    for _ in range(2000):
        deep = [deep]
    return run_of(
        [long, forgiven, blocked],
        port={"name": HOSTILE, "version": float("inf"), HOSTILE: deep, "n": 10**5000, "x": object()},
        properties=[PropertyResult(HOSTILE, ("SEL-001",), "core", failure=HOSTILE * 100_000)],
        complaints=[HOSTILE],
        filtered=HOSTILE,
        command=[HOSTILE],
    )


def test_what_a_port_says_cannot_break_out(tmp_path, hostile):
    write(hostile, tmp_path / "out")
    texts = {name: (tmp_path / "out" / name).read_text(encoding="utf-8") for name in FILES}
    for name, text in texts.items():
        assert len(text) < 400_000, name
        assert not {c for c in text if ord(c) < 32 and c not in "\n\t"}, name
        assert "\u202e" not in text, name
    # between backticks Markdown takes everything literally
    outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", texts["summary.md"])
    for text in (texts["report.html"], texts["junit.xml"], outside):
        assert "<script" not in text
    assert "]]>" not in texts["report.html"] + texts["junit.xml"]
    root = ET.fromstring(texts["junit.xml"])
    assert r"<script>alert(1)</script> ]]> \x00\x1b[31m \ud800 \u202e" in root.find(".//failure").text
    assert "characters)" in root.find(".//failure").text
    rows = [json.loads(line) for line in texts["report.jsonl"].splitlines()]
    assert rows[0]["port"]["version"] == "inf"
    # the lines are those of a hand-made case, so only what is told of them is judged here
    assert [row["type"] for row in rows] == ["header", "case", "case", "case", "property", "footer"]


def test_the_verdict_is_that_of_the_texts_that_were_written(tmp_path):
    run = whole(filtered="y" * 5000, complaints=["z" * 5000])
    write(run, tmp_path / "out")
    assert rows_of(tmp_path / "out" / "report.jsonl")[0]["verdict"]["line"] == tidy(run).verdict().line
    assert tidy(run).verdict().line != run.verdict().line


def test_every_case_of_the_kit_can_be_shown(tmp_path):
    results = [failed(case, output=next(iter(case.expected), ""), got=None) for case in all_cases()]
    for result in results:
        failure = result.failures[0]
        result.failures = [replace(failure, got=result.case.expected.get(failure.output))]
    write(run_of(results), tmp_path / "out")
