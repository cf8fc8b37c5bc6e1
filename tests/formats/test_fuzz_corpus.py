"""Inputs that reach every clause which a single file can break, given to three readers; and a fuzzer that bites."""

import gzip
import random
import shutil
from pathlib import Path

import pytest

pytest.importorskip("resource")  # not on Windows
from conformance.fuzz import corpus, grow
from conformance.fuzz.content import Disagreement
from conformance.fuzz.judge import Judge
from conformance.fuzz.loop import Inputs
from conformance.fuzz.parts import take_apart
from formats import validate

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler named cc")

CORPUS = Path(__file__).with_name("corpus.jsonl.gz")

# what the bytes of one file can break while it is read; the other clauses need a writer, a folder, a base or a caller
SINGLE = {6, 7, 8, 9, 10, 12, 13, 14, 16, 17, *range(20, 37), *range(40, 52), 53, *range(56, 60), 62, 63, 64}
SINGLE |= {*range(66, 71), 72, 73, 90, 91, 93, 102, 130, 131, 132, 141, 142}


@pytest.fixture(scope="module")
def judge():
    with Judge(bounded=False) as one:
        yield one


@pytest.fixture(scope="module")
def inputs():
    return corpus.load(CORPUS)


def test_readers_agree_on_the_corpus(judge, inputs):
    wrong = []
    for number, given in enumerate(inputs):
        verdict = judge(given.raw, deep=True)
        if verdict.accepted != (not given.clause):
            wrong.append((number, given.clause, verdict.clauses))
    judge.flush()
    assert wrong == []


def test_the_corpus_reaches_every_clause_of_a_single_file(inputs):
    assert {f"FMT-{number:03}" for number in SINGLE} - {given.clause for given in inputs} == set()


def test_the_corpus_is_written_alike(inputs, tmp_path):
    corpus.save(tmp_path / "again", reversed(inputs))
    # the lines alone: another zlib packs them into other bytes
    assert gzip.decompress((tmp_path / "again").read_bytes()) == gzip.decompress(CORPUS.read_bytes())


def test_an_input_depends_on_seed_and_number_alone(inputs):
    known = [given.raw for given in inputs[:20]]
    forward = [Inputs(5, known)[number] for number in range(25)]
    one = Inputs(5, known)
    assert [one[number] for number in reversed(range(25))] == forward[::-1]
    assert [Inputs(6, known)[number] for number in range(25)] != forward


def test_random_checkpoints_are_valid_and_taken_apart_without_loss(judge):
    for number in range(150):
        raw = grow.checkpoint(random.Random(number), 0.2).pack()
        assert judge(raw).accepted
        parts = take_apart(raw)
        assert parts.pack() == raw


# only rules without which compiled loops still stay within their arrays
FORGOTTEN = {
    "FMT-010": (validate, "check_tied"),
    "FMT-036": (validate, "check_pad"),
    "FMT-058": (validate, "check_gap_count"),
    "FMT-059": (validate, "check_last_position"),
    "FMT-062 to FMT-064": (validate, "check_mask"),
    "FMT-070": (validate, "check_bool"),
    "FMT-072": (validate, "check_spare"),
}


@pytest.mark.parametrize("rule", FORGOTTEN)
def test_a_forgotten_rule_is_found(judge, rule, monkeypatch):
    owner, name = FORGOTTEN[rule]
    kept = getattr(owner, name)

    def forget(*args, **kwargs):
        try:
            return kept(*args, **kwargs)
        except Exception:  # noqa: BLE001 - whatever the rule raises is forgotten
            return None

    monkeypatch.setattr(owner, name, forget)
    inputs = Inputs(1)

    def run():
        for number in range(8000):
            judge(inputs[number])

    with pytest.raises(Disagreement):
        run()
