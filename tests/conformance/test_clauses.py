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


def test_a_clause_has_all_its_parts_and_is_untestable_if_each_of_them_is():
    plain = "**SEL-007** (MUST) The k largest come first."
    tagged = "**SEL-007.2** (SHOULD) Ties show. [paper-silent] [untestable: why]\n| a | b |\n|---|---|\n| 1 | 2 |"
    (one,) = extract(f"{plain}\n\n{tagged}\n")
    assert (one.id, one.level, one.parts) == ("SEL-007", "MUST", ("SEL-007.2",))
    assert one.text.startswith("The k largest come first. SEL-007.2 (SHOULD) Ties show. | a | b |")
    assert one.shown.splitlines()[1:] == ["SEL-007.2 (SHOULD) Ties show.", "| a | b |", "| 1 | 2 |"]
    assert (one.paper_silent, one.untestable) == (True, "")
    (one,) = extract(f"{plain} [untestable: because]\n\n{tagged}\n")
    assert one.untestable == "because; why"
    assert extract(f"{plain}\n")[0].digest != extract(f"{plain}\n\n{tagged}\n")[0].digest


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ("**SEL-001** (MUST) a\n\n**SEL-001** (MUST) b\n", "twice"),
        ("**SEL-1** (MUST) a\n", "form"),
        ("**SEL-001** (MUST) a\n\n**SEL-007.two** (MUST) b\n", "form"),
        ("**SEL-007** (MUST) a\n\n**SEL-007.3** (MUST) b\n", "does not follow"),
        ("**SEL-001** (MUST) a\n\n**SEL-007.2** (MUST) b\n", "does not follow"),
        ("**SEL-007.2** (MUST) a\n", "does not follow"),
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
