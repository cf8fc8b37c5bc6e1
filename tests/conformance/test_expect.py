"""The manifest of expected failures: what it forgives, what it is scolded for, and how it is written."""

import tomllib

import numpy as np
import pytest

from conformance import whole as atomic
from conformance.cases import Case
from conformance.expect import Expect, ManifestError, apply, read, write
from conformance.expect import manifest as module
from conformance.harness import Failure, Result
from tests.conformance.report_runs import run_of

URL = "https://example.org/issues/1"


def case(name):
    return Case(name, "select.largest", ("SEL-001",), "ties", {}, {"chosen": np.array([7])})


def good(name="a.one"):
    return Result(case(name), ran=2)


def bad(name="a.one", *told, status="fail"):
    told = told or ("at [0] expected 7, got 9",)
    failures = [Failure(f"port {dtype}", "chosen", text, status=status) for text in told for dtype in ("f32", "f64")]
    return Result(case(name), failures, ran=2)


def skipped(name="a.one", reason="unsupported", why="port 1.2 does not offer select.largest"):
    return Result(case(name), reason=reason, skipped=why)


def entry(name="a.one", status="fail", match="at [0] expected", issue=URL, **more):
    return Expect(name, status, match, issue, **more)


def test_an_expected_failure_is_forgiven():
    result, other = bad(), good("a.two")
    assert apply([entry()], [result, other]) == []
    assert (result.waived, result.outcome, result.status) == (URL, "waived", "skipped")
    assert other.outcome == "pass"
    verdict = run_of([result, other]).verdict()
    assert (verdict.conformant, verdict.met) == (False, True)


@pytest.mark.parametrize("status", ["fail", "error", "crash", "timeout", "protocol"])
def test_every_way_to_fail_can_be_expected(status):
    result = bad(status=status)
    assert apply([entry(status=status)], [result]) == []
    assert result.waived


def test_what_is_not_judged_can_be_expected():
    unsupported, blocked = skipped(), skipped("a.two", "blocked", "update.drop rests on select.smallest, which fails")
    listed = [entry(status="unsupported", match=""), entry("a.two", "blocked", "update.drop rests on")]
    assert apply(listed, [unsupported, blocked]) == []
    assert (unsupported.outcome, blocked.outcome) == ("waived", "waived")


def test_two_failures_of_a_case_need_two_entries():
    one, two = "at [0] expected 7", "it wrote to its input ids"
    result = bad("a.one", one, two)
    assert apply([entry(match=one)], [result]) == [f"a.one also comes out as fail, which no entry expects: {two!r}"]
    assert not result.waived
    other = f"{URL}2"
    assert apply([entry(match=one), entry(match=two, issue=other)], [result]) == []
    assert result.waived == f"{URL}, {other}"


# manifest, results, the complaint; nothing is forgiven in any of them
COMPLAINTS = {
    "matches nothing": ([entry("a.three")], [bad()], "a.three matches no case"),
    "a glob that matches nothing": ([entry("b.*", max_matches=9)], [bad()], "b.* matches no case"),
    "unexpected pass": (
        [entry()],
        [good()],
        f"a.one passes, but is expected to come out as fail; remove the entry: {URL}",
    ),
    "another status": (
        [entry()],
        [bad(status="crash")],
        "a.one: expected fail, it comes out as crash: 'at [0] expected",
    ),
    "another message": ([entry(match="at [1]")], [bad()], "a.one: expected fail 'at [1]', it tells 'at [0] expected"),
    "blocked": ([entry()], [skipped(reason="blocked")], "a.one: expected fail, it comes out as blocked"),
    "given up": ([entry()], [skipped(reason="notrun")], "a.one: expected fail, it comes out as notrun"),
    "expired": ([entry(until="1.0-r0")], [bad()], f"until 1.0-r0, this kit is 1.0-r1: {URL}"),
    "more than declared": (
        [entry("a.*", max_matches=1)],
        [bad(), bad("a.two")],
        "a.* matches 2 cases, more than the 1 it declares",
    ),
    "one of a glob passes": ([entry("a.*", max_matches=2)], [bad(), good("a.two")], "a.two passes, but is expected"),
    "one of two entries is wrong": (
        [entry(), entry(match="at [1]")],
        [bad()],
        "a.one: expected fail 'at [1]', it tells 'at [0] expected",
    ),
}


@pytest.mark.parametrize("name", [name for name in COMPLAINTS if name != "one of two entries is wrong"])
def test_a_manifest_that_is_not_so_is_a_complaint(name):
    listed, results, text = COMPLAINTS[name]
    (complaint,) = apply(listed, results)
    assert text in complaint
    assert not any(r.waived for r in results)
    run = run_of(results, complaints=[complaint])
    assert not run.verdict().met
    assert run.counts()[1] >= 1


def test_one_wrong_entry_of_two_is_a_complaint_even_where_the_other_forgives():
    listed, results, text = COMPLAINTS["one of two entries is wrong"]
    (complaint,) = apply(listed, results)
    assert text in complaint
    assert not run_of(results, complaints=[complaint]).verdict().met


def test_a_glob_forgives_as_many_as_it_declares():
    results = [bad(), bad("a.two"), bad("b.one")]
    assert apply([entry("a.*", max_matches=2)], results) == []
    assert [bool(r.waived) for r in results] == [True, True, False]


def test_an_entry_holds_through_its_revision(monkeypatch):
    for revision, complaints in (("1.0-r9", 0), ("1.0-r10", 0), ("1.0-r11", 1), ("1.1-r1", 1), ("2.0-r1", 1)):
        monkeypatch.setattr(module, "REVISION", revision)
        assert len(apply([entry(until="1.0-r10")], [bad()])) == complaints, revision


def test_a_case_that_was_not_asked_is_let_be():
    assert apply([entry("a.three")], [bad()], known=["a.one", "a.three"]) == []
    assert apply([entry("a.three")], [bad()], known=["a.one"]) == ["a.three matches no case"]


def test_properties_cannot_be_listed():
    for name, more in (("select.order", {}), ("select.*", {"max_matches": 2})):
        told = apply([entry(name, **more)], [bad()], properties=["select.order"])
        assert told == [f"{name} names a property; only cases can be expected to fail"]


def test_a_long_message_is_told_in_short():
    (complaint,) = apply([entry(match="x")], [bad("a.one", "y" * 1_000_000)])
    assert len(complaint) < 300


def text_of(**change):
    row = {"id": "a.one", "status": "fail", "match": "at [0]", "issue": URL} | change
    told = {k: v if isinstance(v, int | list) else f'"{v}"' for k, v in row.items() if v is not None}
    return "[[expect]]\n" + "".join(f"{k} = {v}\n" for k, v in told.items())


def test_a_manifest_is_read(tmp_path):
    path = tmp_path / "seft-expect.toml"
    path.write_text("# known\n" + text_of() + text_of(id="a.*", max_matches=20, until="1.0-r3"))
    assert read(path) == [entry(match="at [0]"), entry("a.*", match="at [0]", until="1.0-r3", max_matches=20)]
    path.write_text(text_of(status="unsupported", match=None))
    assert read(path) == [entry(status="unsupported", match="")]
    path.write_text("")
    assert read(path) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (text_of(issue=None), "entry 1 (a.one): issue is missing"),
        (text_of(issue=""), "issue is missing"),
        (text_of(issue="later"), "the URL of the issue"),
        (text_of(issue="https://"), "the URL of the issue"),
        (text_of(issue="https://["), "the URL of the issue"),
        (text_of(issue="javascript:x"), "the URL of the issue"),
        (text_of(id=None), "entry 1: id is missing"),
        (text_of(status="notrun"), "status must be one of fail, error"),
        (text_of(status="pass"), "status must be one of fail, error"),
        (text_of(match=None), "match is missing"),
        (text_of(match=""), "match is missing"),
        (text_of(match=3), "match must be text"),
        (text_of(until="r3"), "a revision of the kit such as 1.0-r1"),
        (text_of(id="a.*"), "a glob needs max_matches from 1 to 20"),
        (text_of(id="a.*", max_matches=21), "a glob needs max_matches from 1 to 20"),
        (text_of(id="a.[ab]", max_matches=0), "a glob needs max_matches from 1 to 20"),
        (text_of(max_matches=2), "max_matches is for globs"),
        (text_of() + "max_matches = true\n", "max_matches must be a number"),
        (text_of(reason="x"), "reason is not known"),
        (text_of() + text_of(id=""), "entry 2 (): id is missing"),
        ("[[expect", "seft-expect.toml: "),
        ("x = 1\n" + text_of(), "x is not known"),
        ("expect = 3", "write every expected failure as [[expect]]"),
        ("expect = [3]", "write every expected failure as [[expect]]"),
        ("\ud800", "cannot be read"),
    ],
)
def test_a_manifest_that_is_none_says_what_to_write(tmp_path, text, says):
    path = tmp_path / "seft-expect.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ManifestError) as caught:
        read(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        read(tmp_path / "none.toml")


def filled(path):
    path.write_text(path.read_text().replace('issue = ""', f'issue = "{URL}"'))
    return read(path)


NEW = """\
# What is known to be wrong. Each entry needs the URL of the issue that tracks it.

[[expect]]
id = "a.one"
status = "fail"
match = "at [0] expected 7"
issue = ""  # the URL of the issue that tracks it

[[expect]]
id = "a.two"
status = "unsupported"
issue = ""  # the URL of the issue that tracks it
"""


def test_a_new_manifest_forgives_the_run_once_issues_are_named(tmp_path):
    path = tmp_path / "seft-expect.toml"
    given_up = skipped("a.four", "notrun")
    results = [bad(), skipped("a.two"), good("a.three"), given_up]
    write(path, results)
    assert path.read_text() == NEW
    with pytest.raises(ManifestError, match="issue is missing"):
        read(path)
    write(path, results)
    assert path.read_text() == NEW
    assert apply(filled(path), results) == []
    assert [r.outcome for r in results] == ["waived", "waived", "pass", "notrun"]


OLD = """\
# Our port, by hand.   Do not sort.

[[expect]]   # the first
  id = 'a.one'
status = "fail"      # since May
  # the moments are off
match = "at [9]"   # an old place
issue = "https://example.org/issues/1"
until = "1.0-r9"

# this one is fixed now
[[expect]]
id = "a.two"
# nobody knows why
status = "crash"
match = "it ended"
issue = "https://example.org/issues/2"

[[expect]]
id = "b.*"
max_matches = 3
status = "fail"
match = "at ["
issue = "https://example.org/issues/3"

# the end
"""
UPDATED = """\
# Our port, by hand.   Do not sort.

[[expect]]   # the first
  id = 'a.one'
status = "error"      # since May
  # the moments are off
match = "it raised \\"x\\""   # an old place
issue = "https://example.org/issues/1"
until = "1.0-r9"

# this one is fixed now
# nobody knows why
[[expect]]
id = "b.*"
max_matches = 3
status = "fail"
match = "at ["
issue = "https://example.org/issues/3"

# the end

[[expect]]
id = "a.one"
status = "error"
match = "it raised y"
issue = ""  # the URL of the issue that tracks it
"""


def test_an_update_keeps_comments_and_order(tmp_path):
    path = tmp_path / "seft-expect.toml"
    path.write_text(OLD)
    results = [bad("a.one", 'it raised "x"\nTraceback', "it raised y", status="error"), good("a.two"), bad("b.one")]
    write(path, results)
    assert path.read_text() == UPDATED
    assert apply(filled(path), results) == []
    write(path, results)
    assert path.read_text() == UPDATED.replace('issue = ""', f'issue = "{URL}"')


def test_an_update_that_changes_nothing_changes_no_byte(tmp_path):
    path = tmp_path / "seft-expect.toml"
    for end in ("\n", "\r\n"):
        old = OLD.replace("\n", end).encode()
        path.write_bytes(old)
        write(path, [bad("a.one", "at [9] expected"), bad("a.two", "it ended with signal 9", status="crash")])
        assert path.read_bytes() == old


def test_a_case_that_was_not_asked_keeps_its_entry(tmp_path):
    path = tmp_path / "seft-expect.toml"
    path.write_text(OLD)
    write(path, [good("z.one")])
    assert path.read_text() == OLD


def test_a_match_is_added_where_there_was_none(tmp_path):
    path = tmp_path / "seft-expect.toml"
    path.write_text(text_of(status="unsupported", match=None))
    write(path, [bad()])
    assert read(path) == [entry(match="at [0] expected 7")]
    write(path, [skipped()])
    assert read(path) == [entry(status="unsupported", match="")]


@pytest.mark.parametrize(
    "text",
    [
        'expect = [{id = "a.one", status = "fail", match = "x", issue = "y"}]\n',
        text_of().replace('"at [0]"', '"""\nat [9]"""'),
        text_of().replace('"at [0]"', '"""\n[[expect]]\n"""'),
        "[[expect]]\nid = \"a.one\"\nexpect.status = \"x\"\nstatus = '''fail'''\n",
        '[[expect]]\nid = "a.one"\nstatus = """fail"""\nmatch = "at [0]"\nissue = """\nstatus = "fail"\n"""\n',
    ],
    ids=["inline", "many lines", "a header in a text", "other quotes", "a key in a text"],
)
def test_what_cannot_be_edited_by_lines_is_left_alone(tmp_path, text):
    path = tmp_path / "seft-expect.toml"
    path.write_text(text)
    with pytest.raises(ManifestError, match="line"):
        write(path, [bad(status="crash")])
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_hostile_details_make_a_manifest_that_can_be_read(tmp_path):
    path = tmp_path / "seft-expect.toml"
    details = ['a "quoted" \\ one', "tab\there", "bell\x07", "half \ud800", "del\x7f", "é ü 漢 🙂", "x" * 1_000_000]
    results = [bad(f"a.n{at}", text) for at, text in enumerate(details)]
    write(path, results)
    assert path.stat().st_size < 5000
    assert apply(filled(path), results) == []
    assert all(r.waived for r in results)
    assert len(tomllib.loads(path.read_text())["expect"]) == len(details)


def test_a_write_that_breaks_leaves_the_manifest(tmp_path, monkeypatch):
    path = tmp_path / "seft-expect.toml"
    path.write_text(OLD)

    def full(path, data):
        path.write_bytes(data[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "_write", full)
    with pytest.raises(OSError, match="No space"):
        write(path, [good("a.two")])
    assert path.read_text() == OLD
    assert list(tmp_path.iterdir()) == [path]
