"""Folders: parts, index, companions, laziness."""

import json
import sys
import tracemalloc
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import formats
from conformance.oracle.files import text
from formats import v1, writer
from formats.header import Manifest
from tests.formats.conftest import apart

INDEX = "model.sparse.index.json"


def part(i, n=3):
    return f"model.sparse-{i:05d}-of-{n:05d}.safetensors"


@pytest.fixture
def folder(tmp_path, checkpoint):
    """Three parts of one tensor each, with a companion."""
    whole = formats.Checkpoint("model", checkpoint.tensors, {"step": 7}, {"alias": "c"}, {"config.json": b"{}"})
    formats.write(tmp_path / "c", whole, shard_bytes=1)
    return tmp_path / "c"


def test_FMT_100_parts_and_index(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", part(1), part(2), part(3), INDEX]
    index = json.loads((folder / INDEX).read_bytes())
    assert index["weight_map"] == {"a": part(1), "b": part(2), "c": part(3)}
    back = formats.read(folder)
    assert list(back.tensors) == ["a", "b", "c"]
    assert (back.attributes, back.tied, back.files) == ({"step": 7}, {"alias": "c"}, {"config.json": b"{}"})


def test_FMT_085_a_part_is_filled_before_the_next_is_opened(tmp_path):
    # 64 bytes each, with pad
    tensors = {name: formats.Dense(np.ones(1)) for name in "abcde"}
    formats.write(tmp_path / "c", formats.Checkpoint("model", tensors), shard_bytes=128)
    weight_map = json.loads((tmp_path / "c" / INDEX).read_bytes())["weight_map"]
    assert [weight_map[name] for name in "abcde"] == [part(1), part(1), part(2), part(2), part(3)]


def test_FMT_085_a_part_holds_a_limited_number_of_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "MAX_TENSORS", 2)
    tensors = {name: formats.Dense(np.ones(1)) for name in "abcde"}
    formats.write(tmp_path / "c", formats.Checkpoint("model", tensors))
    assert (tmp_path / "c" / part(3)).exists()


def test_FMT_048_a_part_alone_is_no_checkpoint(folder):
    with pytest.raises(formats.FormatError, match="FMT-048"):
        formats.open(folder / part(2))


def test_FMT_092_the_root_binds_every_part(folder, tmp_path, checkpoint):
    with formats.open(folder) as reader:
        assert reader.root_sha256 == sha256((folder / INDEX).read_bytes()).hexdigest()
    formats.write(tmp_path / "d", checkpoint)
    with formats.open(tmp_path / "d") as reader:
        whole = v1.PartReader(tmp_path / "d" / "model.sparse.safetensors")
        assert reader.root_sha256 == whole.root


def edit_index(folder, change):
    index = json.loads((folder / INDEX).read_bytes())
    change(index)
    (folder / INDEX).write_text(json.dumps(index, sort_keys=True, separators=(",", ":")))


# what no stored case of `folder.read` has
FOLDERS = {
    "FMT_101_the_index_names_every_tensor": lambda f: edit_index(f, lambda i: i["weight_map"].pop("b")),
    "FMT_101_the_index_leads_nowhere_else": lambda f: edit_index(
        f, lambda i: i["weight_map"].update(a="../" + part(1))
    ),
    "FMT_101_the_index_has_the_version_of_its_parts": lambda f: edit_index(
        f, lambda i: i["metadata"].update(spec="1.1")
    ),
    "FMT_101_an_index_has_two_parts": lambda f: edit_index(
        f, lambda i: i["metadata"].update(manifests=i["metadata"]["manifests"][:1])
    ),
    "FMT_042_the_index_has_a_known_version": lambda f: edit_index(f, lambda i: i["metadata"].update(spec="2.0")),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(case, folder, refused):
    formats.read(folder)
    FOLDERS[case](folder)
    with refused:
        formats.open(folder)


def test_FMT_102_an_empty_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(formats.FormatError, match="FMT-102"):
        formats.open(tmp_path)


def reseal(folder, i, change):
    """Change the manifest of a part, and let the index name the new one."""
    pieces = apart((folder / part(i)).read_bytes())
    change(pieces.manifest)
    (folder / part(i)).write_bytes(pieces.pack())
    root = sha256(text(pieces.manifest).encode()).hexdigest()
    edit_index(folder, lambda index: index["metadata"]["manifests"].__setitem__(i - 1, root))


def test_FMT_104_parts_are_of_one_version(folder):
    reseal(folder, 2, lambda m: None)
    formats.read(folder)
    reseal(folder, 2, lambda m: m.update(spec="1.1"))
    with pytest.raises(formats.FormatError, match="FMT-104"):
        formats.open(folder)


def test_FMT_104_parts_do_not_share_a_name(tmp_path):
    one = formats.Dense(np.ones(1))
    folder = tmp_path / "twins"
    formats.write(folder, formats.Checkpoint("model", {"a": one, "b": one}), shard_bytes=1)
    # a second part that holds "a", as the first does
    twin = v1.PartWriter(tmp_path / "spool")
    with v1.Packer() as packer:
        twin.add("a", packer.pack("a", one))
    (folder / part(2, 2)).unlink()
    root = twin.finish(folder / part(2, 2), Manifest("model", twin.tensors, part=2))
    edit_index(folder, lambda index: index["metadata"]["manifests"].__setitem__(1, root))
    with pytest.raises(formats.FormatError, match=r"FMT-104.*after 'a'"):
        formats.open(folder)


@pytest.mark.parametrize("changed", [b"[]", b"{", b"{}\n"])
def test_FMT_094_a_companion_is_the_one_that_was_written(folder, changed):
    (folder / "config.json").write_bytes(changed)
    with formats.open(folder) as reader:
        with pytest.raises(formats.FormatError, match="FMT-094"):
            reader.files["config.json"]
        with pytest.raises(formats.FormatError, match="FMT-094"):
            reader.verify()


def test_FMT_102_a_companion_is_there(folder):
    (folder / "config.json").unlink()
    with formats.open(folder) as reader, pytest.raises(formats.FormatError, match="FMT-102"):
        reader.verify()


def test_FMT_103_other_files_are_ignored(folder):
    (folder / "README.md").write_text("mine")
    formats.read(folder)


def test_what_a_reader_tells(folder):
    with formats.open(folder) as reader:
        assert (reader.kind, reader.spec) == ("model", "1.0")
        info = reader.info("a")
        assert (info.encoding, info.nnz, info.numel, info.nbytes, info.dtype) == (
            "bitmask",
            3,
            6,
            8,
            "F16",
        )
        assert "a" in reader
        assert "alias" not in reader
        with pytest.raises(KeyError):
            reader["alias"]
        values = reader["a"].values
        assert not values.flags.writeable
    assert values.tolist() == [1.5, 0, -2]
    with pytest.raises(KeyError):
        reader["a"]


def test_FMT_095_damage_elsewhere_does_not_disturb_a_tensor(good, tmp_path, pieces):
    pieces.of("c")["values"].data = bytes(range(6))
    (tmp_path / "x.safetensors").write_bytes(pieces.pack())
    with formats.open(tmp_path / "x.safetensors") as reader:
        reader.load_verified("a")
        with pytest.raises(formats.FormatError, match="FMT-090"):
            reader.load_verified("c")
        with pytest.raises(formats.FormatError, match="FMT-090"):
            reader.verify()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_reading_one_tensor_leaves_the_rest_on_disk(tmp_path):
    def mapped():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssFile:")[1].split()[0]) * 1024

    rng = np.random.default_rng(0)
    tensors = {
        "big": formats.Dense(rng.integers(0, 255, 64_000_000, np.uint8)),
        "small": formats.Dense(np.ones(5)),
    }
    formats.write(tmp_path / "c", formats.Checkpoint("model", tensors))
    before = mapped()
    with formats.open(tmp_path / "c") as reader:
        assert reader["small"].values.sum() == 5
        assert mapped() - before < 4_000_000
        assert reader["big"].values.max() < 255
        assert mapped() - before > 60_000_000


class Made(Mapping):
    """Twelve matrices, each made when asked for."""

    def __init__(self):
        self.asked = []

    def __getitem__(self, name):
        self.asked.append(name)
        values = np.zeros((500, 1000), np.float32)
        values[:, ::3] = int(name)
        return formats.from_dense(values)

    def __iter__(self):
        return iter(str(i) for i in range(12, 0, -1))

    def __len__(self):
        return 12


def test_a_writer_asks_once_and_holds_one_tensor(tmp_path):
    made = Made()
    made["1"]
    made.asked.clear()
    tracemalloc.start()
    made["1"]
    _, one = tracemalloc.get_traced_memory()
    made.asked.clear()
    tracemalloc.reset_peak()
    formats.write(tmp_path / "c", formats.Checkpoint("model", made))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made.asked == sorted(str(i) for i in range(1, 13))
    assert peak < 3 * one
