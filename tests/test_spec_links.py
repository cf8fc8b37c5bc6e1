"""Every clause id that is written anywhere exists in SPEC.md, and every clause lives in code and in a test."""

import re
from pathlib import Path

import pytest

import seft_ref

ROOT = Path(seft_ref.__file__).parents[1]
ID = re.compile(r"\b[A-Z]{2,4}-\d{3}\b")
SPEC = (ROOT / "SPEC.md").read_text(encoding="utf-8")
CLAUSES = re.findall(r"^\*\*([A-Z]{2,4}-\d{3})\*\* \((?:MUST|SHOULD)\)", SPEC, re.MULTILINE)
UNTESTABLE = {
    clause
    for clause, text in re.findall(r"^\*\*([A-Z]{2,4}-\d{3})\*\*(.*(?:\n(?!\n).*)*)", SPEC, re.MULTILINE)
    if "[untestable:" in text
}
# what looks like a clause and is none: digests, and the number 000 of a base class that is never raised
FOREIGN = {"SHA-256", "SHA-512", "SHA-384", "FMT-000"}
# chapters that SPEC.md announces with a comment and does not hold yet
COMING = {family for chapter, family in (("KERNEL", "KRN"), ("FORMAT", "FMT")) if f"<!-- {chapter} CHAPTER -->" in SPEC}
TEXT = {".py", ".cu", ".md", ".json", ".jsonl", ".toml", ".txt"}
CODE = ("seft_ref", "formats", "seft_cli", "conformance")
PROOF = ("tests", "conformance")


def files(folders):
    return (p for folder in folders for p in sorted((ROOT / folder).rglob("*")) if p.suffix in TEXT and p.is_file())


def cited(folders):
    """Clause id to the files that cite it; names of tests write ids with an underscore."""
    found = {}
    for path in files(folders):
        text = path.read_text(encoding="utf-8")
        names = [name for line in re.findall(r"def (test_\w+)", text) for name in re.findall(r"[A-Z]{2,4}_\d{3}", line)]
        for clause in {*ID.findall(text), *(name.replace("_", "-") for name in names)} - FOREIGN:
            if clause.split("-")[0] not in COMING:
                found.setdefault(clause, []).append(str(path.relative_to(ROOT)))
    return found


def test_clauses_are_numbered_once_and_rise_within_a_family():
    assert len(CLAUSES) > 90
    assert len(set(CLAUSES)) == len(CLAUSES)
    for family in {clause.split("-")[0] for clause in CLAUSES}:
        numbers = [int(clause.split("-")[1]) for clause in CLAUSES if clause.startswith(family + "-")]
        # files tell their story in the order of an implementation, and number where there was room
        assert family == "FMT" or numbers == sorted(numbers), family
        assert len(numbers) == len(set(numbers)), family


def test_every_bold_id_is_a_clause_with_a_level():
    assert re.findall(r"^\*\*([A-Z]{2,4}-\d{3})\*\*", SPEC, re.MULTILINE) == CLAUSES


def test_ids_within_the_specification_exist():
    missing = set(ID.findall(SPEC)) - FOREIGN - set(CLAUSES)
    assert {clause for clause in missing if clause.split("-")[0] not in COMING} == set()


@pytest.mark.parametrize("folder", [*CODE, "benchmarks", "experiments", "tests"])
def test_every_cited_clause_exists(folder):
    unknown = {clause: where for clause, where in cited([folder]).items() if clause not in CLAUSES}
    assert unknown == {}


@pytest.mark.parametrize(("where", "folders"), [("code", CODE), ("a test or a conformance case", PROOF)])
def test_every_clause_is_cited_by(where, folders):
    known = cited(folders)
    missing = [clause for clause in CLAUSES if clause not in known and not (where != "code" and clause in UNTESTABLE)]
    assert not missing, f"{len(missing)} clauses are not cited by {where}: {' '.join(missing)}"


def test_decisions_are_numbered_without_gaps():
    numbers = [int(n) for n in re.findall(r"^\| D(\d+) \|", SPEC, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
