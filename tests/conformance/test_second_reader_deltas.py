"""The second reader: what a delta may say and store, and companions beside a file."""

import pytest

from conformance.oracle.second_reader import read
from tests.conformance.checkpoint_bytes import CARD, CHANGE, HEX, OPS, W, build, clause, delta, mask_of, put, sparse


def test_FMT_094_FMT_102_companions_stand_beside_a_file(tmp_path):
    path = tmp_path / "model.sparse.safetensors"
    path.write_bytes(build(W, files=CARD))
    assert clause(read, path) == "FMT-102"
    for data in (b"ho", b"h"):
        (tmp_path / "card.md").write_bytes(data)
        assert clause(read, path) == "FMT-094"
    (tmp_path / "card.md").write_bytes(b"hi")
    assert read(path).files == ["card.md"]


NAMES = [".a", "a" * 256, "a b", "a\n", "ä", "Model.Sparse-x", "a.BIN", "x.index.json", "x.index.json\n", "card.MD"]


@pytest.mark.parametrize("name", NAMES)
def test_FMT_013_names_of_companions(try_read, name):
    assert clause(try_read, build(W, files=CARD | {name: CARD["card.md"]})) == "FMT-013"


@pytest.mark.parametrize("name", ["a.bin.txt", "bin", "A-1_.B", "_model.sparse", "model.safetensors.md", "a" * 255])
def test_FMT_013_names_that_companions_may_have(try_read, name):
    assert clause(try_read, build(W, files={name: CARD["card.md"]})) == "FMT-102"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def test_FMT_131_FMT_132_a_delta(try_read):
    content = try_read(delta())
    assert content.delta["tensors"] == {"w": CHANGE}
    gone = {"w": {"base": HEX, "target": None}, "n:x": {"base": None, "target": HEX}}
    assert try_read(delta({"whole:n:x": sparse()}, gone)).delta
    assert try_read(delta({"add:w": sparse()})).delta
    assert try_read(delta({}, {})).delta
    # FMT-133 is judged when the delta is applied
    assert try_read(delta({"add:w": sparse(dtype="I16")})).delta
    assert try_read(delta({"replace:w": sparse(), "remove:w": mask_of([1, 2], (6,))})).delta
    assert try_read(delta(scales={"a": {"scale": "b"}}, tied={"b": "c", "c": "d"})).delta


DELTAS = [
    ("FMT-050", delta(edit=put("requires", to=[]))),
    ("FMT-040", delta(more={})),
    ("FMT-047", delta(base_sha256="x")),
    ("FMT-041", delta(base_sha256=None)),
    ("FMT-041", delta(changes={"w": {"base": 1, "target": None}})),
    ("FMT-047", delta(changes={"w": {"base": "1", "target": None}})),
    ("FMT-131", delta(changes={"w": {"base": HEX, "target": HEX}})),
    ("FMT-131", delta(changes={"w": {"base": None, "target": None}})),
    ("FMT-009", delta(changes={"w#": CHANGE})),
    ("FMT-010", delta(tied={"a": "a"})),
    ("FMT-016", delta(scales={"a": {}})),
    ("FMT-016", delta(scales={"a": {"scale": "a"}})),
    ("FMT-016", delta(scales={"a": {"Scale": "b"}})),
    ("FMT-009", delta(scales={"a": {"scale": ""}})),
    ("FMT-130", delta(edit=put("tied", to={"a": "replace:w"}))),
    ("FMT-130", delta(edit=put("scales", to={"replace:w": {"scale": "remove:w"}}))),
    ("FMT-132", delta({"w": sparse()})),
    ("FMT-132", delta({"put:w": sparse()})),
    ("FMT-132", delta({"replace:v": sparse()})),
    ("FMT-132", delta({})),
    ("FMT-132", delta(OPS | {"whole:w": sparse()})),
    ("FMT-132", delta({"add:w": sparse(), "remove:w": mask_of([1])})),
    ("FMT-132", delta(changes={"w": {"base": HEX, "target": None}})),
    ("FMT-132", delta(changes={"w": {"base": None, "target": HEX}})),
]


@pytest.mark.parametrize(("want", "raw"), DELTAS)
def test_deltas(try_read, want, raw):
    assert clause(try_read, raw) == want
