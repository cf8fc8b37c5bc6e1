"""Every clause id that is written anywhere exists in SPEC.md, and every clause lives in code and in a test."""

import ast
import re
from pathlib import Path

import pytest

import seft_ref

ROOT = Path(seft_ref.__file__).parents[1]
ID = re.compile(r"\b[A-Z]{2,4}-\d{3}(?:\.\d+)?\b")
SPEC = (ROOT / "SPEC.md").read_text(encoding="utf-8")
PARTS = dict(
    re.findall(r"^\*\*([A-Z]{2,4}-\d{3}(?:\.\d+)?)\*\* \((?:MUST|SHOULD)\)(.*(?:\n(?!\n).*)*)", SPEC, re.MULTILINE)
)
"""Each part of a clause and its text: EVT-004 is the first part of its clause, EVT-004.2 the second."""
CLAUSES = [part for part in PARTS if "." not in part]
UNTESTABLE = set(CLAUSES) - {part.partition(".")[0] for part, text in PARTS.items() if "[untestable:" not in text}
MOST_SENTENCES, MOST_WORDS, LONGEST_SENTENCE = 3, 60, 25
# names that look like ids of clauses: digests, and FMT-000 of a base class that is never raised
FOREIGN = {"SHA-256", "SHA-512", "SHA-384", "FMT-000"}
TEXT = {".py", ".cu", ".md", ".json", ".jsonl", ".toml", ".txt"}
CODE = ("seft_ref", "formats", "seft_cli", "conformance")
KIT = re.search(r"^KIT = (.+)$", (ROOT / "docs" / "manual.py").read_text(encoding="utf-8"), re.MULTILINE)
IMPLEMENTS = ("seft_ref", "formats", "seft_cli", *ast.literal_eval(KIT[1]))
"""Folders and files that implement clauses, as in the manual; the kit implements those of chapters 14 and 16."""
PROOF = ("tests", "conformance")


def files(folders):
    paths = (p for name in folders for p in (sorted((ROOT / name).rglob("*")) or [ROOT / name]))
    return (p for p in paths if p.suffix in TEXT and p.is_file())


def cited(folders):
    """Return id of a clause or part -> the files that cite it; names of tests write ids with an underscore."""
    found = {}
    for path in files(folders):
        text = path.read_text(encoding="utf-8")
        names = [name for line in re.findall(r"def (test_\w+)", text) for name in re.findall(r"[A-Z]{2,4}_\d{3}", line)]
        for clause in {*ID.findall(text), *(name.replace("_", "-") for name in names)} - FOREIGN:
            found.setdefault(clause, []).append(str(path.relative_to(ROOT)))
    return found


def prose(text):
    """Return the sentences of a part as lists of words, without tables and tags; code between backticks is one word."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    lines = re.sub(r"\[(?:paper-silent|untestable:[^\]]*)\]", "", re.sub(r"`[^`]*`", "code", lines))
    sentences = re.split(r"(?<=[.?!])\s+", lines)
    return [words for words in (re.findall(r"\S*\w\S*", sentence) for sentence in sentences) if words]


def test_clauses_are_numbered_once_and_rise_within_a_family():
    assert len(CLAUSES) > 90
    assert len(set(CLAUSES)) == len(CLAUSES)
    for family in {clause.split("-")[0] for clause in CLAUSES}:
        numbers = [int(clause.split("-")[1]) for clause in CLAUSES if clause.startswith(family + "-")]
        # FMT clauses stand in the order in which one implements them, and later ones took free numbers
        assert family == "FMT" or numbers == sorted(numbers), family
        assert len(numbers) == len(set(numbers)), family


def test_every_bold_id_is_a_clause_or_part_with_a_level():
    assert re.findall(r"^\*\*([A-Z]{2,4}-[\d.]+)\*\*", SPEC, re.MULTILINE) == [*PARTS]


def test_a_link_can_lead_to_every_clause():
    """The anchor stands alone on the line above, so that a clause still begins its line."""
    anchored = re.findall(r'^<a id="([\w-]+)"></a>\n\*\*([A-Z]{3,4}-\d{3})\*\*', SPEC, re.MULTILINE)
    assert anchored == [(clause.lower(), clause) for clause in CLAUSES]


def test_parts_follow_their_clause_in_order_without_gaps():
    number = 1
    for part in PARTS:
        number = number + 1 if "." in part else 1
        clause = part if number == 1 else clause
        assert part == (clause if number == 1 else f"{clause}.{number}")


def test_a_part_is_one_short_statement():
    sentences = {part: prose(text) for part, text in PARTS.items()}
    sizes = {part: (len(found), sum(map(len, found))) for part, found in sentences.items()}
    assert {part: size for part, size in sizes.items() if size[0] > MOST_SENTENCES or size[1] > MOST_WORDS} == {}


def test_a_sentence_of_a_part_is_short():
    long = {
        part: sentence for part, text in PARTS.items() for sentence in prose(text) if len(sentence) > LONGEST_SENTENCE
    }
    assert long == {}


def test_words_and_sentences_are_counted_without_tables_and_code():
    text = " Let `a b` be\n0. Then x · y = 1.5 (TOP-001.2). [paper-silent]\n| a. b | c. |\n"
    assert prose(text) == [["Let", "code", "be", "0."], ["Then", "x", "y", "1.5", "(TOP-001.2)."]]


def test_ids_within_the_specification_exist():
    assert set(ID.findall(SPEC)) - FOREIGN - set(PARTS) == set()


@pytest.mark.parametrize("folder", [*CODE, "benchmarks", "experiments", "examples", "tests"])
def test_every_cited_clause_exists(folder):
    unknown = {clause: where for clause, where in cited([folder]).items() if clause not in PARTS}
    assert unknown == {}


@pytest.mark.parametrize(("where", "folders"), [("code", IMPLEMENTS), ("a test or a conformance case", PROOF)])
def test_every_clause_is_cited_by(where, folders):
    # a citation of a part counts for its clause
    known = {part.partition(".")[0] for part in cited(folders)}
    missing = [clause for clause in CLAUSES if clause not in known and not (where != "code" and clause in UNTESTABLE)]
    assert not missing, f"{len(missing)} clauses are not cited by {where}: {' '.join(missing)}"


def test_decisions_are_numbered_without_gaps():
    numbers = [int(n) for n in re.findall(r"^\| D(\d+) \|", SPEC, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
