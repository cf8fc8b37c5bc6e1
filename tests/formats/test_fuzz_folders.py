"""Folders of parts and chains of deltas, given to two readers; and a fuzzer of them that bites."""

import random

import pytest

pytest.importorskip("resource")  # not on Windows
from conformance.fuzz import chains
from conformance.fuzz.content import Disagreement
from conformance.fuzz.judge_folders import FolderJudge
from conformance.fuzz.loop import FolderInputs, Tally, execute
from conformance.oracle import files_deltas, second_folder
from conformance.oracle.files import Tensor
from formats import delta, index, reader


@pytest.fixture(scope="module")
def judge():
    with FolderJudge(bounded=False) as one:
        yield one


def test_random_scenarios_are_valid(judge):
    for number in range(60):
        made = chains.scenario(random.Random(number))
        # the second reader has no `zstd`
        assert set(judge([folder.pack() for folder in made], deep=number % 8 == 0).clauses) <= {"", "FMT-043"}


def test_readers_agree_on_folders_and_chains(judge):
    tally, inputs = Tally(), FolderInputs(1)
    for number in range(400):
        execute(judge, tally, inputs[number])
    assert tally.accepted > 50
    # a folder, its index and its parts; a chain, its base, its end and what a delta stores
    assert {"FMT-101", "FMT-102", "FMT-103", "FMT-104", "FMT-133", "FMT-137", "FMT-138", "FMT-139"} <= set(tally.named)


def test_a_scenario_depends_on_seed_and_number_alone():
    forward = [FolderInputs(5)[number] for number in range(6)]
    one = FolderInputs(5)
    assert [one[number] for number in reversed(range(6))] == forward[::-1]
    assert [FolderInputs(6)[number] for number in range(6)] != forward


def test_a_folder_in_the_place_of_a_file_is_refused(judge):
    made = [folder.pack() for folder in chains.scenario(random.Random(1))][:1]
    for name in made[0]:
        assert judge([{**made[0], name: None}]).clauses[0]


# rules of folders and chains, each forgotten by the first reader
FORGOTTEN = {
    "FMT-101": (reader, "compare_index"),
    "FMT-104": (reader, "_check_parts"),
    "FMT-133": (delta.change, "_check_fits"),
}


def noticed(judge):
    """Return the first scenario that readers do not agree on, None if there is none."""
    inputs = FolderInputs(1)
    for number in range(3000):
        try:
            judge(inputs[number])
        except Disagreement:
            return inputs[number]
    return None


@pytest.mark.parametrize("rule", FORGOTTEN)
def test_a_forgotten_rule_is_found(judge, rule, monkeypatch):
    owner, name = FORGOTTEN[rule]
    monkeypatch.setattr(owner, name, lambda *args: None)
    found = noticed(judge)
    assert found is not None
    monkeypatch.undo()
    judge(found)


def test_a_stray_file_that_is_overlooked_is_found(judge, monkeypatch):
    def without_stray(found, roots):
        return [index.WHOLE] if roots is None else [index.part_name(i, len(roots)) for i in range(1, len(roots) + 1)]

    monkeypatch.setattr(reader, "expected_files", without_stray)
    found = noticed(judge)
    assert found is not None
    monkeypatch.undo()
    judge(found)


def test_the_second_reader_adds_as_the_oracle_does():
    chance = random.Random(3)
    for dtype in files_deltas.WIDTHS:
        for other in files_deltas.WIDTHS:
            base, amounts = (
                Tensor(d, (6,), b"".join(files_deltas.rounded(d, chance.uniform(-9, 9)) for _ in range(6)))
                for d in (dtype, other)
            )
            expected = files_deltas.change(base, {"add": amounts})
            given = [second_folder.Tensor(t.dtype, t.shape, None, None, t.bits) for t in (base, amounts)]
            assert second_folder.changed(given[0], {"add": given[1]}, "w").bits == expected.bits
