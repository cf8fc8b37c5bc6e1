"""Clauses are found in SPEC.md, broken documents are refused, the lock file is what the document gives."""

import pytest

from conformance.cases.clauses import ClauseError, check_lock, extract, lock_text, read_clauses

GOOD = """# Title

**Semantics.** Words in bold that are no clause.

**SEL-001** (MUST) The k largest
come first. [paper-silent]

**SEL-002** (SHOULD) Another one. [untestable: it needs
two machines]
Next line of it.

Example: text.
"""


def test_a_clause_runs_to_the_blank_line_and_tags_come_off():
    one, two = extract(GOOD)
    assert (one.id, one.level, one.text) == ("SEL-001", "MUST", "The k largest come first.")
    assert one.paper_silent
    assert not one.untestable
    assert two.level == "SHOULD"
    assert two.untestable.split() == ["it", "needs", "two", "machines"]
    assert two.text == "Another one. Next line of it."


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ("**SEL-001** (MUST) a\n\n**SEL-001** (MUST) b\n", "twice"),
        ("**SEL-1** (MUST) a\n", "form"),
        ("**SELECT-001** (MUST) a\n", "form"),
        ("**SEL-001** (WILL) a\n", "MUST"),
        ("**SEL-001** a\n", "MUST"),
        ("**SEL-001** (MUST)\n\ntext\n", "MUST"),
        ("**SEL-001** (MUST) a [untestable]\n", "tag"),
        ("**SEL-001** (MUST) a [paper-silent: why]\n", "tag"),
    ],
)
def test_a_broken_document_is_refused(document, match):
    with pytest.raises(ClauseError, match=match):
        extract(document)


def test_the_document_has_its_clauses():
    clauses = read_clauses()
    assert len(clauses) > 90
    assert clauses["SEL-003"].text.startswith("A selection is returned in ascending order of id.")
    assert clauses["SEL-001"].paper_silent


def test_the_lock_file_is_what_the_document_gives():
    assert check_lock(read_clauses()) == []


def test_the_lock_shows_what_changed(tmp_path):
    lock = tmp_path / "lock.json"
    clauses = {c.id: c for c in extract(GOOD)}
    lock.write_text(lock_text(clauses), encoding="utf-8")
    assert check_lock(clauses, lock) == []
    changed = {c.id: c for c in extract(GOOD.replace("largest", "smallest"))}
    assert check_lock(changed, lock) == ["SEL-001: changed since it was locked"]
    moved = {c.id: c for c in extract(GOOD.replace("SEL-002", f"SEL-{999}"))}
    assert len(check_lock(moved, lock)) == 2
