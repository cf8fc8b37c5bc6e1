"""Version folders of slime and SGLang against a plain reader and a plain writer of their own (FMT-168)."""

import json
import struct
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

import formats
from formats import Checkpoint, Dense, FormatError, delta
from formats.dialects import weight_sync
from formats.dialects.hf import checkpoint_to_hf, open_hf
from formats.dialects.sources import detect, open_changes, open_source
from formats.errors import CannotHold

blake3, xxhash, zstandard = (pytest.importorskip(name) for name in ("blake3", "xxhash", "zstandard"))
SUMS = {
    "xxh3-128": lambda data: xxhash.xxh3_128(data).hexdigest(),
    "blake3": lambda data: blake3.blake3(data).hexdigest(),
    "adler32": lambda data: f"{zlib.adler32(data):08x}",
}
DTYPES = (np.uint8, np.int16, np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.complex64)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {f"w.{np.dtype(d).name}": rng.integers(0, 99, (5, 7)).astype(d) for d in DTYPES} | {
        "still": np.arange(3, dtype=np.float32),
        "flags": np.array([True, False, True]),
    }


def changed(before, seed=1):
    rng = np.random.default_rng(seed)
    after = {name: values.copy() for name, values in before.items()}
    for name, values in after.items():
        if name.startswith("w."):
            at = rng.random(values.shape) < 0.2
            values[at] += np.ones((), values.dtype)
    after["flags"][1] = True
    return after


def model(of):
    return Checkpoint("model", {name: Dense(values) for name, values in of.items()})


def sparse(of):
    """The matrices sparse, zeros absent."""
    tensors = {name: formats.from_dense(values) if values.ndim == 2 else Dense(values) for name, values in of.items()}
    return Checkpoint("model", tensors)


def plain_read(folder, before):
    """What a program makes of a folder by its index, bytes and checksums alone."""
    index = json.loads((folder / weight_sync.INDEX).read_text())
    told, found = index["metadata"], {name: bytearray(values.tobytes()) for name, values in before.items()}
    for name, file_name in index["weight_map"].items():
        raw = (folder / file_name).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        begin, end = header[name]["data_offsets"]
        difference = zstandard.ZstdDecompressor().decompress(raw[8 + length + begin : 8 + length + end])
        data = found[name]
        if told["delta_encoding"] == "xor":
            for i, byte in enumerate(difference):
                data[i] ^= byte
        else:
            (count,) = struct.unpack("<I", difference[:4])
            for i, offset in enumerate(struct.unpack(f"<{count}I", difference[4 : 4 + 4 * count])):
                data[offset] = difference[4 + 4 * count + i]
        assert SUMS[told["checksum_format"]](bytes(data)) == header["__metadata__"][name]
    return {name: bytes(data) for name, data in found.items()}, told, set(index["weight_map"])


def plain_write(folder, before, after, encoding="xor", checksum="xxh3-128", version=7):
    """A folder as slime writes it, in two files."""
    frames = {}
    for name, values in after.items():
        old, new = (np.frombuffer(x.tobytes(), np.uint8) for x in (before[name], values))
        difference = old ^ new
        if difference.any():
            at = np.flatnonzero(difference).astype("<u4")
            parts = [np.array([at.size], "<u4").view(np.uint8), at.view(np.uint8), new[at]]
            payload = difference if encoding == "xor" else np.concatenate(parts)
            frames[name] = np.frombuffer(zstandard.ZstdCompressor(level=1).compress(payload.tobytes()), np.uint8)
    folder.mkdir(parents=True)
    weight_map = {}
    for i, part in enumerate((sorted(frames)[::2], sorted(frames)[1::2])):
        file_name = f"model-{i:05d}-of-00002.safetensors"
        sums = {name: SUMS[checksum](after[name].tobytes()) for name in part}
        (folder / file_name).write_bytes(save({name: frames[name] for name in part}, metadata=sums))
        weight_map |= dict.fromkeys(part, file_name)
    metadata = {
        "version": f"{version:06d}",
        "base_version": f"{version - 1:06d}",
        "delta_encoding": encoding,
        "compression_format": "zstd",
        "checksum_format": checksum,
    }
    (folder / weight_sync.INDEX).write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("checksum", SUMS)
@pytest.mark.parametrize("encoding", weight_sync.ENCODINGS)
def test_FMT_168_a_plain_program_reads_what_we_write(encoding, checksum, tmp_path):
    before = arrays()
    after = changed(before)
    folder = tmp_path / "weight_v000003"
    weight_sync.write_weight_sync(folder, model(before), sparse(after), encoding=encoding, checksum=checksum)
    found, told, names = plain_read(folder, before)
    assert found == {name: values.tobytes() for name, values in after.items()}
    assert names == {*after} - {"still"}
    assert (told["version"], told["base_version"]) == ("000003", "000002")
    assert sorted(path.name for path in folder.iterdir()) == ["model-00000-of-00001.safetensors", weight_sync.INDEX]


@pytest.mark.parametrize("kind", [model, sparse])
@pytest.mark.parametrize("checksum", SUMS)
@pytest.mark.parametrize("encoding", weight_sync.ENCODINGS)
def test_FMT_168_we_read_what_a_plain_program_writes(encoding, checksum, kind, tmp_path):
    before = arrays()
    after = changed(before)
    folder = plain_write(tmp_path / "weight_v000007", before, after, encoding, checksum)
    assert detect(folder) == "weight-sync"
    change = open_changes(folder, kind(before))
    made = delta.apply(kind(before), [change])
    for name, values in after.items():
        assert formats.to_dense(made.tensors[name]).tobytes() == values.tobytes(), name
    assert sorted(change.tensors) == sorted(f"replace:{name}" for name in after if name != "still")
    assert change.attributes["metadata"]["version"] == "000007"


@pytest.mark.parametrize("folder", ["xor-xxh3-128", "overwrite-blake3", "xor-adler32"])
def test_FMT_168_folders_that_are_frozen(folder):
    root = Path(__file__).parent / "fixtures" / "weight-sync"
    before, after = {}, {}
    for name, told in json.loads((root / "weights.json").read_text()).items():
        for key, to in (("before", before), ("after", after)):
            to[name] = np.frombuffer(bytes.fromhex(told[key]), told["dtype"]).reshape(told["shape"])
    change = open_changes(root / folder / "weight_v000001", model(before))
    made = delta.apply(model(before), [change])
    assert sorted(change.tensors) == ["replace:embed.weight", "replace:q_proj.weight"]
    assert {name: one.values.tobytes() for name, one in made.tensors.items()} == {
        name: values.tobytes() for name, values in after.items()
    }


def test_a_version_folder_becomes_a_delta_and_goes_back(tmp_path):
    before = arrays()
    after = changed(before)
    checkpoint_to_hf(tmp_path / "v6", model(before))
    source = plain_write(tmp_path / "in" / "weight_v000007", before, after)
    formats.convert(source, tmp_path / "d", "delta", base=tmp_path / "v6")
    remarks = formats.convert(
        tmp_path / "d", tmp_path / "weight_v000008", "weight-sync", base=tmp_path / "v6", encoding="overwrite"
    )
    assert "adapter" in remarks[0]
    found, told, _ = plain_read(tmp_path / "weight_v000008", before)
    assert found == {name: values.tobytes() for name, values in after.items()}
    assert told["delta_encoding"] == "overwrite"
    with pytest.raises(FormatError, match=r"FMT-084.*changes a base"):
        open_source(source)
    for opened in (open_hf, lambda path: open_source(path, "sparse")):
        with pytest.raises(FormatError, match=r"FMT-168.*no model; make one: seft apply BASE .*weight_v\d+ OUT$"):
            opened(source)


def rewritten(folder, edit):
    """Rewrite the index and the first file; `edit` gets metadata, weight_map, tensors and checksums."""
    index = json.loads((folder / weight_sync.INDEX).read_text())
    file = folder / "model-00000-of-00002.safetensors"
    from safetensors import safe_open
    from safetensors.numpy import load_file

    tensors = load_file(file)
    with safe_open(file, "np") as opened:
        sums = dict(opened.metadata())
    edit(index["metadata"], index["weight_map"], tensors, sums)
    file.write_bytes(save(tensors, metadata=sums))
    (folder / weight_sync.INDEX).write_text(json.dumps(index))


NAME = "w.int16"


def packed(data):
    return np.frombuffer(zstandard.ZstdCompressor().compress(data), np.uint8)


def of_frame(data):
    return lambda metadata, names, tensors, sums: tensors.update({NAME: packed(data)})


def u4(*numbers):
    return np.array(numbers, "<u4").tobytes()


BROKEN = {
    "no encoding": (lambda m, *_: m.pop("checksum_format"), "checksum_format = None"),
    "another encoding": (lambda m, *_: m.update(delta_encoding="sum"), "delta_encoding = 'sum'"),
    "another codec": (lambda m, *_: m.update(compression_format="lz4"), "compression_format = 'lz4'"),
    "a short version": (lambda m, *_: m.update(version="7"), "version = '7'"),
    "another version": (lambda m, *_: m.update(version="000009"), "holds version 000009"),
    "a path": (lambda m, names, *_: names.update({NAME: "../x.safetensors"}), "expected a safetensors file of"),
    "a tensor too few": (lambda m, names, *_: names.pop(NAME), f"{NAME!r} is not in the index"),
    "a file that is not there": (lambda m, names, *_: names.update({NAME: "a.safetensors"}), "lacks a.safetensors"),
    "no checksum": (lambda m, names, tensors, sums: sums.pop(NAME), f"{NAME!r} is not in the index"),
    "another checksum": (lambda m, names, tensors, sums: sums.update({NAME: "0" * 32}), "the folder promises 0000"),
    "another dtype": (lambda m, n, tensors, s: tensors.update({NAME: np.zeros(4, np.int8)}), "expected one dimension"),
    "no frame": (lambda m, n, tensors, s: tensors.update({NAME: np.zeros(9, np.uint8)}), "no zstd frame"),
    "too many bytes": (of_frame(bytes(71)), "states 71 bytes behind zstd, expected 70 to 70"),
    "bytes behind": (
        lambda m, n, tensors, s: tensors.update({NAME: np.concatenate([tensors[NAME], packed(b"x")])}),
        "not one whole zstd frame",
    ),
    "half a frame": (lambda m, n, tensors, s: tensors.update({NAME: tensors[NAME][:-3]}), "not one whole|cannot be"),
    "xor of another base": (of_frame(bytes(70)), "give the model of version 000006"),
}
OVERWRITTEN = {
    "a count too high": (of_frame(u4(3, 0, 1) + b"ab"), "says that 3 bytes change and has 14"),
    "falling offsets": (of_frame(u4(2, 5, 4) + b"ab"), "do not rise"),
    "an offset twice": (of_frame(u4(2, 5, 5) + b"ab"), "do not rise"),
    "an offset outside": (of_frame(u4(1, 70) + b"a"), "lie outside the 70 bytes"),
    "no count": (of_frame(b"abc"), "states 3 bytes behind zstd, expected 4 to 354"),
}


@pytest.mark.parametrize(("encoding", "case"), [("xor", c) for c in BROKEN] + [("overwrite", c) for c in OVERWRITTEN])
def test_FMT_168_what_is_wrong_is_refused(encoding, case, tmp_path):
    edit, told = (BROKEN | OVERWRITTEN)[case]
    before = arrays()
    after = changed(before)
    folder = plain_write(tmp_path / "weight_v000007", before, after, encoding)
    assert NAME in json.loads((folder / weight_sync.INDEX).read_text())["weight_map"]
    rewritten(folder, edit)
    with pytest.raises(FormatError, match=f"FMT-168.*({told})"):
        open_changes(folder, model(before))


def test_FMT_168_10_the_metadata_of_an_index_tells_a_version_from_a_model(tmp_path):
    before = arrays()
    folder = plain_write(tmp_path / "weight_v000007", before, changed(before))
    index = folder / weight_sync.INDEX
    # the same text, spelled otherwise
    index.write_text(index.read_text().replace("delta_encoding", "delta\\u005fencoding"))
    assert detect(folder) == "weight-sync"
    # a model with a tensor of that name
    whole = tmp_path / "model"
    checkpoint_to_hf(
        whole, model({"delta_encoding": np.ones((2, 2), np.float32), "w": before["w.float32"]}), shard_bytes=1
    )
    assert (whole / weight_sync.INDEX).is_file()
    assert detect(whole) == "hf"
    assert sorted(open_source(whole).tensors) == ["delta_encoding", "w"]


def test_FMT_168_6_another_base_is_refused_and_one_without_the_tensor(tmp_path):
    before = arrays()
    folder = plain_write(tmp_path / "weight_v000007", before, changed(before))
    with pytest.raises(FormatError, match=r"FMT-168.*give the model of version 000006 as the base"):
        open_changes(folder, model(arrays(5)))
    with pytest.raises(FormatError, match=r"FMT-168.*the base has no 'flags'"):
        open_changes(folder, model({name: values for name, values in before.items() if name != "flags"}))


def test_FMT_168_7_offsets_never_wrap(tmp_path, monkeypatch):
    before = arrays()
    after = changed(before)
    folder = plain_write(tmp_path / "weight_v000007", before, after, "overwrite")
    monkeypatch.setattr(weight_sync, "WRAPS", 70)
    with pytest.raises(FormatError, match=r"FMT-168.*offsets of overwrite end below 70; ask for xor"):
        open_changes(folder, model(before))
    with pytest.raises(CannotHold, match=r"FMT-154.*offsets of overwrite end below 70; use xor"):
        weight_sync.write_weight_sync(tmp_path / "weight_v000001", model(before), model(after), encoding="overwrite")
    assert not (tmp_path / "weight_v000001").exists()
    weight_sync.write_weight_sync(tmp_path / "weight_v000001", model(before), model(after))


def reshaped(of):
    return of | {"still": of["still"].reshape(3, 1)}


@pytest.mark.parametrize(
    ("name", "make", "more", "told"),
    [
        ("weight_v000001", lambda of: of, {}, "FMT-084.*the same model"),
        ("weight_v000000", changed, {}, "FMT-084.*six digits or more from 000001"),
        ("step-1", changed, {}, "FMT-084.*six digits or more from 000001"),
        ("weight_v000001", changed, {"encoding": "sum"}, "FMT-084.*expected xor or overwrite"),
        ("weight_v000001", changed, {"checksum": "md5"}, "FMT-084.*expected one of xxh3-128"),
        ("weight_v000001", lambda of: of | {"new": of["still"]}, {}, "FMT-154.*'new' comes or goes"),
        ("weight_v000001", reshaped, {}, "FMT-154.*'still' changes its dtype or shape"),
    ],
)
def test_FMT_168_9_what_a_version_cannot_hold(name, make, more, told, tmp_path):
    before = arrays()
    with pytest.raises(FormatError, match=told):
        weight_sync.write_weight_sync(tmp_path / name, model(before), model(make(before)), **more)
    assert [*Path(tmp_path).iterdir()] == []


def chain(root, states):
    return [plain_write(root / f"weight_v{i:06d}", *states[i - 1 : i + 1], version=i) for i in range(1, len(states))]


@pytest.mark.parametrize("kind", [model, sparse])
def test_FMT_168_11_a_chain_makes_the_last_version(kind, tmp_path, monkeypatch):
    states = [arrays()]
    for seed in range(1, 7):
        states.append(changed(states[-1], seed))
    folders = chain(tmp_path, states)
    expansions = []
    real = weight_sync._applied
    monkeypatch.setattr(weight_sync, "_applied", lambda *given: expansions.append(given[3]) or real(*given))
    made = weight_sync.apply_weight_sync(kind(states[0]), folders)
    assert expansions == []
    for name, values in states[-1].items():
        assert formats.to_dense(made.tensors[name]).tobytes() == values.tobytes(), name
    # work in proportion to the length of the chain
    assert all(expansions.count(name) <= 6 for name in states[0])


def test_FMT_168_11_a_gap_in_the_chain_is_refused(tmp_path):
    """The second step leaves alone what the third changes, so that no checksum tells of the gap."""
    before = arrays()
    states = [before, before | {"still": before["still"] + 1}, before | {"still": before["still"] + 1}]
    states[2] = states[1] | {"w.int16": before["w.int16"] + 1}
    states.append(states[2] | {"w.uint8": before["w.uint8"] + 1})
    first, _, third = chain(tmp_path, states)
    for wrong in ([first, third], [third, first], [first, first]):
        with pytest.raises(FormatError, match=r"FMT-168.*ends at version 00000[13]; give every folder between"):
            weight_sync.apply_weight_sync(model(before), wrong)


def test_FMT_168_11_a_chain_may_be_longer_than_calls_are_deep(tmp_path):
    states = [{"w": np.arange(4, dtype=np.int16)}]
    for step in range(520):
        states.append({"w": states[-1]["w"] + np.int16(1 + step % 3)})
    made = weight_sync.apply_weight_sync(model(states[0]), chain(tmp_path, states))
    assert made.tensors["w"].values.tolist() == states[-1]["w"].tolist()


@pytest.mark.parametrize("encoding", weight_sync.ENCODINGS)
def test_FMT_168_a_damaged_folder_is_refused_or_says_the_same(encoding, tmp_path):
    before = {"w": arrays()["w.float32"]}
    after = {"w": changed(arrays())["w.float32"]}
    folder = plain_write(tmp_path / "weight_v000007", before, after, encoding)
    rng, refused = np.random.default_rng(9), 0
    files = [file for file in sorted(folder.iterdir()) if file.stat().st_size > 100]
    for _ in range(150):
        file = files[rng.integers(len(files))]
        sound = file.read_bytes()
        cut = rng.random() < 0.2
        damaged = bytearray(sound[: rng.integers(len(sound))] if cut else sound)
        for _ in range(0 if cut else rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            made = delta.apply(model(before), [open_changes(folder, model(before))])
            assert made.tensors["w"].values.tobytes() == after["w"].tobytes()
        except FormatError:
            refused += 1
        file.write_bytes(sound)
    assert refused > 75
