"""The second reader: folders, companions, parts and deltas."""

import pytest

from conformance.second_reader import Content, read, read_folder
from tests.conformance.checkpoint_bytes import (
    CARD,
    CHANGE,
    EXAMPLE,
    HEX,
    OPS,
    SECOND,
    WHOLE,
    W,
    build,
    clause,
    delta,
    folder,
    mask_of,
    parts,
    put,
    sparse,
)


def test_FMT_100_FMT_094_folders(tmp_path):
    one = read_folder(folder(tmp_path / "one", {WHOLE: build(W, files=CARD), "card.md": b"hi", "other": b""}))
    assert isinstance(one, Content)
    assert (one.files, [*one.tensors]) == ({"card.md": b"hi"}, ["w"])
    made = parts(files=CARD, tied={"c": "b"}, scales={"b": {"scale": "a"}}, attributes={"x": [1]})
    two = read_folder(folder(tmp_path / "two", made | {"card.md": b"hi"}))
    assert ([*two.tensors], two.tied, two.attributes) == (["a", "b"], {"c": "b"}, {"x": [1]})
    with pytest.raises(FileNotFoundError):
        read_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


NAMES = [".a", "a" * 256, "a b", "Model.Sparse-x", "a.BIN", "x.index.json", "card.MD"]
FOLDERS = [
    *(("FMT-013", {WHOLE: build(W, files=CARD | {name: CARD["card.md"]}), "card.md": b"hi"}) for name in NAMES),
    ("FMT-102", {}),
    ("FMT-102", {WHOLE: build(W, files=CARD)}),
    ("FMT-094", {WHOLE: build(W, files=CARD), "card.md": b"ho"}),
    ("FMT-094", {WHOLE: build(W, files=CARD), "card.md": b"h"}),
    ("FMT-103", {WHOLE: build(W), "Model.Sparse.txt": b""}),
    ("FMT-103", {WHOLE: build(W), "model.sparse.index.json": b""}),
    ("FMT-048", {WHOLE: build(W, part=1)}),
    ("FMT-102", {name: raw for name, raw in parts().items() if name != SECOND}),
    ("FMT-102", {name: raw for name, raw in parts().items() if "index" not in name}),
    ("FMT-028", parts() | {"model.sparse.index.json": parts()["model.sparse.index.json"] + b"\n"}),
    ("FMT-100", parts(index=lambda i: i["metadata"]["manifests"].pop())),
    ("FMT-104", parts(index=put("metadata", "manifests", 1, to=HEX))),
    ("FMT-047", parts(index=put("metadata", "manifests", 1, to="x"))),
    ("FMT-101", parts(index=put("metadata", "spec", to="1.1"))),
    ("FMT-101", parts(index=put("weight_map", "a", to=SECOND))),
    ("FMT-101", parts(index=put("weight_map", "c", to=SECOND))),
    ("FMT-040", parts(index=put("more", to=0))),
    ("FMT-104", parts((None, put("part", to=3)))),
    ("FMT-104", parts((None, put("kind", to="other")))),
    ("FMT-104", parts((None, put("spec", to="1.1")))),
    ("FMT-104", parts((None, put("attributes", to={"a": 1})))),
    ("FMT-104", parts((None, put("tied", to={"c": "b"})))),
    ("FMT-104", parts(names=("b", "a"))),
    ("FMT-104", parts(names=("a", "a"))),
    ("FMT-104", parts(tensors=({"a": sparse()}, {}))),
    ("FMT-010", parts(tied={"b": "a"})),
    ("FMT-016", parts(scales={"a": {"scale": "c"}})),
]


@pytest.mark.parametrize(("want", "files"), FOLDERS)
def test_folders(tmp_path, want, files):
    assert clause(read_folder, folder(tmp_path / "x", files)) == want


@pytest.mark.parametrize(
    "name", ["model.safetensors", "Adapter_model.safetensors", "pytorch_model-1-of-02.safetensors"]
)
def test_FMT_112_names_of_dense_files(tmp_path, name):
    folder(tmp_path / "x", {name: EXAMPLE})
    assert clause(read, tmp_path / "x" / name) == "FMT-112"


def test_FMT_101_the_size_of_an_index(tmp_path):
    folder(tmp_path / "x", parts())
    with (tmp_path / "x" / "model.sparse.index.json").open("r+b") as index:
        index.truncate(100_000_001)
    assert clause(read_folder, tmp_path / "x") == "FMT-101"


def test_FMT_131_FMT_132_a_delta(try_read, tmp_path):
    content = try_read(delta())
    assert content.delta["tensors"] == {"w": CHANGE}
    gone = {"w": {"base": HEX, "target": None}, "n:x": {"base": None, "target": HEX}}
    assert try_read(delta({"whole:n:x": sparse()}, gone)).delta
    assert try_read(delta({"add:w": sparse()})).delta
    assert try_read(delta({}, {})).delta
    described = {"base_sha256": HEX, "target_sha256": HEX, "scales": {}, "tied": {}, "tensors": {"w": CHANGE}}
    made = parts(tensors=({"remove:w": mask_of([1])}, OPS | {}), kind="delta", requires=["delta"], delta=described)
    assert clause(read_folder, folder(tmp_path / "d", made)) == "FMT-104"
    split = ({"remove:w": mask_of([1])}, {"replace:w": sparse()})
    made = parts(tensors=split, kind="delta", requires=["delta"], delta=described)
    assert read_folder(folder(tmp_path / "e", made)).delta == described


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
    ("FMT-010", delta(tied={"a": "b", "b": "c"})),
    ("FMT-016", delta(scales={"a": {}})),
    ("FMT-016", delta(scales={"a": {"scale": "b"}}, tied={"b": "c"})),
    ("FMT-132", delta({"w": sparse()})),
    ("FMT-132", delta({"put:w": sparse()})),
    ("FMT-132", delta({"replace:v": sparse()})),
    ("FMT-132", delta({})),
    ("FMT-132", delta(OPS | {"whole:w": sparse()})),
    ("FMT-132", delta({"add:w": sparse(), "remove:w": mask_of([1])})),
    ("FMT-132", delta(changes={"w": {"base": HEX, "target": None}})),
    ("FMT-132", delta(changes={"w": {"base": None, "target": HEX}})),
    ("FMT-133", delta({"replace:w": sparse(), "remove:w": mask_of([1, 3], (6,))})),
    ("FMT-133", delta({"remove:w": sparse()})),
    ("FMT-133", delta({"add:w": sparse(dtype="I16")})),
    ("FMT-133", delta({"replace:w": sparse(), "remove:w": mask_of([1, 2])})),
    ("FMT-133", delta({"replace:w": sparse(), "remove:w": mask_of(range(6))})),
]


@pytest.mark.parametrize(("want", "raw"), DELTAS)
def test_deltas(try_read, want, raw):
    assert clause(try_read, raw) == want
