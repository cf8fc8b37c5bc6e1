"""Operations on files and readers of foreign formats against plain definitions, and a fuzzer of them that bites."""

import pickle
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from conformance.fuzz import foreign, steps
from conformance.fuzz.content import Disagreement
from conformance.fuzz.foreign import Cases, ForeignJudge, execute, fuzzer_of, reader_of, strict
from conformance.fuzz.loop import Tally
from conformance.fuzz.parts import NOTHING, SECTIONS
from conformance.oracle import files_deltas, second_reader
from conformance.oracle.files import on
from formats import compress, step_files
from formats.dialects import int_codes, seft_adapter, shira, super_tuning, weight_sync
from formats.records import from_flat

for library in ("blake3", "torch", "xxhash", "zstandard"):
    pytest.importorskip(library)
from formats.dialects import vllm_patch  # noqa: E402

NUMBERS = {
    "convert.from_hf": 150,
    "convert.to_hf": 150,
    "convert.codes": 200,
    "convert.adapter": 400,
    "patches": 300,
    "seft_adapters": 300,
    "steps": 60,
    "packed": 300,
}
"""Executions of each reader, fewer of those that take long."""

NAMED = {
    "convert.from_hf": {"FMT-120", "FMT-121"},
    "convert.to_hf": {"FMT-028", "FMT-040", "FMT-062"},
    "convert.codes": {"FMT-121", "FMT-172", "FMT-173", "FMT-175"},
    "convert.adapter": {"FMT-121", "FMT-151", "FMT-152", "FMT-168", "FMT-170"},
    "patches": {"FMT-154", "FMT-169"},
    "seft_adapters": {"FMT-121", "FMT-171"},
    "steps": {"FMT-176"},
    "packed": {"FMT-177", "FMT-020", "FMT-021"},
}


@pytest.mark.parametrize("name", foreign.READERS)
def test_readers_agree_with_the_definitions(name, tmp_path):
    tally = Tally()
    cases, made = fuzzer_of(name, 1, tmp_path)
    with made as judge, strict():
        for number in range(NUMBERS[name]):
            execute(judge, tally, cases[number])
    assert tally.accepted > NUMBERS[name] // 8
    assert NAMED[name] <= set(tally.named)


@pytest.mark.parametrize("name", foreign.READERS)
def test_a_case_depends_on_seed_and_number_alone(name):
    (one, _), (two, _) = fuzzer_of(name, 6), fuzzer_of(name, 6)
    forward = [pickle.dumps(one[number]) for number in range(6)]
    assert [pickle.dumps(two[number]) for number in reversed(range(6))] == forward[::-1]
    assert len({*forward}) == 6


class Anything(str):
    """A checksum that equals every other."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __ne__(self, other):
        return False


def unchecked_support(positions, shape, name, clause):
    permutation = np.argsort(positions, kind="stable")
    return from_flat(shape, positions[permutation]), permutation


def expanded_with_a_rest(frame, nbytes):
    import zstandard

    return zstandard.ZstdDecompressor().decompress(frame.data, max_output_size=nbytes, allow_extra_data=True)


def hoarding(made):
    """A function that also reserves 32 MiB."""

    def run(*given):
        reserved = bytearray(1 << 25)
        return made(*given) if reserved else None

    return run


# a mistake: reader, and what is forgotten
BROKEN = {
    "a checksum is not compared": (
        "convert.adapter",
        weight_sync,
        "checksum_of",
        lambda *given: lambda data: Anything(),
    ),
    "memory is reserved": ("convert.adapter", weight_sync, "_expanded", hoarding(weight_sync._expanded)),
    "a NaN is accepted": ("patches", vllm_patch, "_count_nan", lambda values: 0),
    "a position comes twice": ("patches", vllm_patch, "sorted_support", unchecked_support),
    "numbers are not in range": ("convert.codes", int_codes, "check_values", lambda matrix, name: None),
    "positions of an adapter come twice": ("convert.adapter", super_tuning, "sorted_support", unchecked_support),
    "positions of rows and columns come twice": ("convert.adapter", shira, "sorted_support", unchecked_support),
    "positions of a SEFT adapter come twice": ("seft_adapters", seft_adapter, "sorted_support", unchecked_support),
    "as many amounts as positions": ("seft_adapters", seft_adapter, "_check_sections", lambda sections: None),
    "padding is kept": ("convert.adapter", super_tuning, "without_padding", lambda amounts: amounts),
    "a frame is followed by something": ("packed", compress, "expand", expanded_with_a_rest),
    "a file may be of another version": ("steps", step_files, "_check_version", lambda *given: given[-1] or "run-7"),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_mistake_is_found(mistake, monkeypatch, tmp_path):
    name, owner, attribute, broken = BROKEN[mistake]
    monkeypatch.setattr(owner, attribute, broken)
    cases, made = fuzzer_of(name, 1, tmp_path)
    with made as judge, strict():
        assert any(finds(judge, cases[number]) for number in range(3000))


def finds(judge, case):
    try:
        judge(case, deep=True)
    except Disagreement:
        return True
    return False


def test_FMT_056_a_small_file_of_many_rows_is_no_finding(tmp_path):
    # row pointers take 16 MiB where all sections take 62 bytes; a run of the fuzzer called that a finding
    tensor = on("I8", (2**20, 1), list(range(0, 31 * 200, 200)))
    version = steps._parts({"w": tensor}, 0, "run-7", kind="model", encodings={"w": "gap8"})
    raw = version.pack()
    assert len(raw) < 2300
    case = steps.READER.case(Random(1), steps.Draft({"000000.model": version}, None), valid=True)
    with ForeignJudge(reader_of("steps"), tmp_path) as judge:
        assert judge(case, deep=True).accepted


@pytest.mark.parametrize("damaged", ["listed", "unlisted", "later", "nothing"])
@pytest.mark.parametrize("seal", [SECTIONS, NOTHING], ids=["content", "section"])
def test_FMT_137_2_damage_of_a_base_counts_where_it_reaches_the_result(tmp_path, damaged, seal):
    # the definition once refused damage that the delta replaces, and the fuzzer called that a finding
    model = {name: on("I8", (4, 4), [1, 5, 9]) for name in ("listed", "unlisted", "later")}
    links = {"tied": {}, "scales": {}}
    base = steps._parts(model, 0, "run-7", kind="model", **links)
    versions = {"000000.model": base}
    for number, name in enumerate(("listed", "later"), 1):
        stored = {f"whole:{name}": on("I8", (4, 4), [0, 7])}
        model, described = files_deltas.step(model, stored, before=links, **links)
        versions[f"{number:06d}.delta"] = steps._parts(stored, number, "run-7", kind="delta", delta=described)
    if damaged != "nothing":
        base.seal = seal
        values = base.of(damaged)["values"]
        values.data = bytes([values.data[0] ^ 1, *values.data[1:]])
    case = steps.READER.case(Random(1), steps.Draft(versions, None), valid=True)
    case = replace(case, valid=False)  # one that may be refused
    with ForeignJudge(reader_of("steps"), tmp_path) as judge:
        assert judge(case).accepted == (damaged in ("listed", "nothing"))


@pytest.mark.parametrize("damaged", ["read", "unread"])
def test_FMT_095_a_pad_of_a_base_counts_where_its_tensor_is_read(tmp_path, damaged):
    # the definition once refused a pad of a tensor that the delta removes
    model = {name: on("I8", (4, 4), [1, 5, 9]) for name in ("read", "unread")}
    links = {"tied": {}, "scales": {}}
    base = steps._parts(model, 0, "run-7", kind="model", **links)
    _, described = files_deltas.step(model, {}, ["unread"], before=links, **links)
    delta = steps._parts({}, 1, "run-7", kind="delta", delta=described)
    case = steps.READER.case(Random(1), steps.Draft({"000000.model": base, "000001.delta": delta}, None), valid=True)
    raw = bytearray(case.folders["steps"]["000000.model"])
    header, _, start = second_reader.read_header(bytes(raw))
    raw[start + header[f"{damaged}#values#pad"]["data_offsets"][0]] = 1
    case = replace(case, folders=case.folders | {"steps": case.folders["steps"] | {"000000.model": bytes(raw)}})
    case = replace(case, valid=False)  # one that may be refused
    with ForeignJudge(reader_of("steps"), tmp_path) as judge:
        assert judge(case).accepted == (damaged == "unread")


def test_a_file_that_is_left_behind_is_found(monkeypatch, tmp_path):
    reader = reader_of("packed")

    def littering(case, place):
        (place / "left").touch()

    monkeypatch.setattr(reader, "read", littering, raising=False)
    with ForeignJudge(reader, tmp_path) as judge, pytest.raises(Disagreement, match="left"):
        judge(Cases(reader, 1)[0])


def test_a_reader_that_hangs_is_stopped(monkeypatch, tmp_path):
    reader = reader_of("packed")

    def waiting(case, place):
        while True:
            pass

    monkeypatch.setattr(reader, "read", waiting, raising=False)
    monkeypatch.setattr(foreign, "SECONDS", 0.05)
    with ForeignJudge(reader, tmp_path) as judge, strict(), pytest.raises(Disagreement, match="TimeoutError"):
        execute(judge, Tally(), Cases(reader, 1)[0])


def test_spoiled_folders_of_steps_can_be_laid(tmp_path):
    # a file was laid below what another mutation had made a file again
    for seed in range(1000):
        tree = {"000000.model": b"a", "000001.delta": b"b"}
        for turn in range(4):
            steps._spoil_files(Random(seed + 7919 * turn), tree, {})
        place = tmp_path / str(seed)
        place.mkdir()
        foreign.lay(foreign.Case({"steps": tree}), place)
