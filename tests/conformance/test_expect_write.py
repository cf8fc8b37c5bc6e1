"""The manifest of expected failures: how it is written from a run, and how it comes back."""

import tomllib

import pytest

from conformance.expect import ManifestError, apply, read, write
from formats import atomic
from tests.conformance.expect_rows import (
    URL,
    bad,
    entry,
    filled,
    good,
    held,
    in_classes,
    listed,
    skipped,
    text_of,
)

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


@pytest.mark.parametrize(
    "results",
    [[], [good("z.one")], [good("b.one")], [skipped("a.one", "notrun"), skipped("a.two", "notrun")], [held()]],
    ids=["nothing", "another case", "one of a glob", "given up", "a property"],
)
def test_what_a_run_did_not_reach_keeps_its_entry(tmp_path, results):
    path = tmp_path / "seft-expect.toml"
    old = OLD + "\n" + text_of(id=None, property="select.other", match=None)
    path.write_text(old)
    write(path, results)
    assert path.read_text() == old


def test_properties_are_written_changed_and_taken_out_like_cases(tmp_path):
    path = tmp_path / "seft-expect.toml"
    failing = held(failure="port float32: chosen: at [0] expected 7, got 9")
    write(path, [failing, held("select.other"), held("select.third", skipped="the kit's fault: late")])
    assert 'property = "select.order"\nstatus = "fail"\nissue = ""' in path.read_text()
    assert filled(path) == [listed()]
    assert apply(filled(path), [failing]) == []
    # written from a run that forgave it, it stays
    write(path, [failing])
    assert read(path) == [listed()]
    write(path, [held(skipped="the kit's fault: late")])
    assert read(path) == [listed()]
    write(path, [held(skipped="port does not offer select.smallest")])
    assert read(path) == [listed(status="unsupported")]
    write(path, [good("select.order")])
    assert read(path) == [listed(status="unsupported")]
    write(path, [held()])
    assert read(path) == []


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

    monkeypatch.setattr(atomic, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write(path, [good("a.two")])
    assert path.read_text() == OLD
    assert list(tmp_path.iterdir()) == [path]


CLASSES_APART = """\
# What is known to be wrong. Each entry needs the URL of the issue that tracks it.

[[expect]]
id = "a.one"
status = "fail"
match = "at [0] expected 7"
class = "exact64"
issue = ""  # the URL of the issue that tracks it

[[expect]]
id = "a.one"
status = "fail"
match = "at [1] expected 8"
class = "fp32"
issue = ""  # the URL of the issue that tracks it
"""


def test_two_classes_that_fail_differently_come_back(tmp_path):
    path = tmp_path / "seft-expect.toml"
    both = {"exact64": ("at [0] expected 7",), "fp32": ("at [1] expected 8",)}
    classes = ("exact64", "fp32")
    write(path, [in_classes(**both)], classes)
    assert path.read_text() == CLASSES_APART
    entries = filled(path)
    for asked in (classes, classes[:1], classes[1:]):
        result = in_classes(**{name: both[name] for name in asked})
        assert apply(entries, [result], classes=asked) == []
        assert result.waived
        # a run in one class does not take out what is known of the other
        before = path.read_text()
        write(path, [result], asked)
        assert path.read_text() == before
    write(path, [in_classes(fp32=both["fp32"])], classes)
    assert read(path) == entries[1:]
    write(path, [good()], classes[:1])
    assert read(path) == entries[1:]
    write(path, [good()], classes)
    assert read(path) == []


def test_a_failure_in_every_class_that_was_asked_has_an_entry_without_one(tmp_path):
    path = tmp_path / "seft-expect.toml"
    write(path, [in_classes(exact64=("at [0]",), fp32=("at [0]",))], ("exact64", "fp32"))
    assert [e.in_class for e in filled(path)] == [""]
    path.unlink()
    # of the classes of the run, 16 bits do not take this case
    write(path, [in_classes(exact64=("at [0]",), fp32=("at [0]",))], ("exact64", "fp32", "bf16"))
    assert [e.in_class for e in filled(path)] == [""]
