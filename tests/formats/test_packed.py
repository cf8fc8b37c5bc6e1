"""Packed files (FMT-177): the bytes inside are those of the plain file, and what is no such frame is refused."""

import shutil
import subprocess
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import zstandard

import formats
from conformance.oracle import second_reader
from formats import FormatError, delta
from formats.check import violations
from formats.steps import Follower, Publisher

BF16 = np.dtype(ml_dtypes.bfloat16)


def models(count=20, size=(96, 64), changes=50):
    """Return a dense model of several matrices, and the same with a few values changed in each."""
    random = np.random.default_rng(7)
    before = {f"layers.{i}.weight": random.normal(0, 0.02, size).astype(BF16) for i in range(count)}
    after = {name: values.copy() for name, values in before.items()}
    for values in after.values():
        at = random.choice(values.size, changes, replace=False)
        values.reshape(-1).view(np.uint16)[at] ^= 5
    return [
        formats.Checkpoint("model", {n: formats.Dense(v) for n, v in tensors.items()}) for tensors in (before, after)
    ]


@pytest.fixture(scope="module")
def change():
    return delta.diff(*models())


@pytest.fixture
def plain(tmp_path, change):
    path = tmp_path / "step.safetensors"
    formats.write_file(path, change)
    return path.read_bytes()


def packed(content, **options):
    return zstandard.ZstdCompressor(**options).compress(content)


def refused(path, raw, clause, match):
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=match) as error:
        formats.read(path)
    assert error.value.clause == clause
    assert [e.clause for _, e in violations(path)] == [clause]


def test_FMT_177_a_frame_of_the_bytes_of_the_plain_file(tmp_path, plain, change):
    path = tmp_path / "step.zst"
    formats.write_file(path, change, compress="file")
    raw = path.read_bytes()
    assert zstandard.ZstdDecompressor().decompress(raw) == plain
    with formats.open(path) as reader, formats.open(tmp_path / "step.safetensors") as same:
        reader.verify()
        assert (reader.root_sha256, reader.state_sha256) == (same.root_sha256, same.state_sha256)
        for name in same:
            assert reader[name].values.tobytes() == same[name].values.tobytes()
    assert list(violations(path)) == []
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["step.safetensors", "step.zst"]


def test_FMT_177_the_zstd_command_packs_and_unpacks(tmp_path, plain, change):
    if not shutil.which("zstd"):
        pytest.skip("the zstd command is not installed")
    path = tmp_path / "step.safetensors"
    subprocess.run(["zstd", "-q", path], check=True)
    assert formats.open(tmp_path / "step.safetensors.zst").kind == "delta"
    path.unlink()
    formats.write_file(tmp_path / "step.safetensors.zst", change, compress="file")
    subprocess.run(["zstd", "-q", "-d", tmp_path / "step.safetensors.zst"], check=True)
    assert path.read_bytes() == plain


def test_FMT_177_a_delta_of_few_changes_is_smaller_than_plain_lists(tmp_path, change):
    """Without digests, positions of 4 bytes with values of 2 take more than the packed delta."""
    from safetensors.numpy import save

    path = tmp_path / "step.zst"
    formats.write_file(path, change, compress="file")
    lists = {}
    for name, tensor in change.tensors.items():
        name = name.removeprefix("replace:")
        lists[f"{name}.indices"] = np.arange(tensor.nnz, dtype=np.int32)
        lists[f"{name}.values"] = tensor.values.view(np.uint16)
    assert path.stat().st_size < len(save(lists))


def test_FMT_177_2_other_readers_refuse_it_by_the_length_of_the_header(tmp_path, plain):
    path = tmp_path / "step.zst"
    path.write_bytes(packed(plain))
    with pytest.raises(second_reader.Refused, match="FMT-021"):
        second_reader.read(path.read_bytes())


def test_FMT_177_3_the_size_is_stated(tmp_path, plain):
    path = tmp_path / "step.zst"
    refused(path, packed(plain, write_content_size=False), "FMT-177", "content size 18446744073709551615")


def test_FMT_177_3_a_bomb_takes_no_memory(tmp_path):
    bomb = packed(bytes(1 << 28))
    assert len(bomb) < (1 << 28) // 1024
    tracemalloc.start()
    refused(tmp_path / "step.zst", bomb, "FMT-177", "at most 1024 times")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 1 << 40, (1 << 64) - 1])
def test_FMT_177_3_a_size_that_lies(tmp_path, plain, size):
    raw = bytearray(packed(plain))
    header = zstandard.frame_header_size(bytes(raw))
    # descriptor with a size of eight bytes in one segment, so that the window is the size
    forged = raw[:4] + bytes([0xE0]) + size.to_bytes(8, "little") + raw[header:]
    path = tmp_path / "step.zst"
    path.write_bytes(bytes(forged))
    with pytest.raises(FormatError, match=r"FMT-177|FMT-020"):
        formats.read(path)


def test_FMT_177_4_no_dictionary_nothing_behind_and_a_checksum_is_fine(tmp_path, plain):
    path = tmp_path / "step.zst"
    samples = [plain[i : i + 256] for i in range(0, 1 << 14, 64)]
    dictionary = zstandard.train_dictionary(1024, samples)
    refused(path, zstandard.ZstdCompressor(dict_data=dictionary).compress(plain), "FMT-177", "dictionary")
    refused(path, packed(plain) + b"\0", "FMT-177", "cannot|no zstd|unused")
    refused(path, packed(plain) + packed(b""), "FMT-177", "no zstd frame")
    path.write_bytes(packed(plain, write_checksum=True))
    assert formats.read(path).kind == "delta"
    wrong = bytearray(path.read_bytes())
    wrong[-1] ^= 1
    refused(path, bytes(wrong), "FMT-177", "no zstd frame")


def test_FMT_177_4_nothing_is_behind_a_frame_without_tensors(tmp_path):
    """No tensor is read, so opening the file checks its frame."""
    path = tmp_path / "empty.zst"
    formats.write_file(path, formats.Checkpoint("model", {}), compress="file")
    assert formats.read(path).tensors == {}
    with path.open("ab") as file:
        file.write(b"\0")
    refused(path, path.read_bytes(), "FMT-177", "no zstd frame")
    with pytest.raises(FormatError, match="FMT-177"):
        formats.open(path)


def test_FMT_177_4_a_frame_that_is_cut_anywhere(tmp_path, plain):
    raw = packed(plain)
    for end in [4, 5, 7, 8, 9, 12, 18, *range(20, len(raw), 997), len(raw) - 1]:
        path = tmp_path / "step.zst"
        path.write_bytes(raw[:end])
        with pytest.raises(FormatError, match=r"FMT-020|FMT-177"):
            formats.read(path)


@pytest.mark.parametrize("content", [b"", b"1234567", b"12345678", b"\x28\xb5\x2f\xfd" + bytes(60)])
def test_FMT_177_what_is_inside_is_judged_as_a_file(tmp_path, content):
    path = tmp_path / "step.zst"
    path.write_bytes(packed(content))
    with pytest.raises(FormatError, match="FMT-020" if len(content) < 8 else "FMT-021|FMT-022"):
        formats.read(path)


def test_FMT_177_5_no_packed_file_in_a_folder(tmp_path):
    folder = tmp_path / "model"
    formats.write(folder, models()[0])
    file = folder / "model.sparse.safetensors"
    file.write_bytes(packed(file.read_bytes()))
    with pytest.raises(FormatError, match="FMT-177"):
        formats.open(folder)
    assert [error.clause for _, error in violations(folder)] == ["FMT-177"]


def test_FMT_177_6_names(tmp_path, change):
    for name, compress in [("x.safetensors", "file"), ("x.zst", None), ("x.safetensors.zst", "zstd")]:
        with pytest.raises(FormatError, match="FMT-177"):
            formats.write_file(tmp_path / name, change, compress=compress)
    assert list(tmp_path.iterdir()) == []


def test_FMT_177_what_is_packed_is_one_file(tmp_path, change):
    formats.write(tmp_path / "step.zst", change, compress="file")
    with pytest.raises(formats.FormatError, match="FMT-110"):
        formats.write(tmp_path / "step.zst", change, compress="file")
    with pytest.raises(FormatError, match="FMT-084"):
        formats.write(tmp_path / "other.zst", change, compress="file", shard_bytes=1000)
    with pytest.raises(FormatError, match="FMT-013"):
        formats.write(tmp_path / "other.zst", formats.Checkpoint("model", {}, files={"a.txt": b"a"}), compress="file")
    assert [entry.name for entry in tmp_path.iterdir()] == ["step.zst"]


def test_FMT_177_zeros_that_a_frame_makes_too_small_are_refused_and_the_older_file_stays(tmp_path):
    path = tmp_path / "zeros.zst"
    path.write_bytes(b"older")
    zeros = formats.Checkpoint("model", {"w": formats.Dense(np.zeros((3000, 3000), np.float64))})
    with pytest.raises(FormatError, match=r"FMT-177.*its sections"):
        formats.write_file(path, zeros, compress="file")
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_FMT_177_a_folder_of_steps_with_packed_deltas(tmp_path):
    models_of = [*models(), models(changes=51)[1]]
    sizes = {}
    for compress in (None, "file"):
        folder, current = tmp_path / f"steps-{compress}", tmp_path / f"current-{compress}"
        with Publisher(folder, "r", every=2, compress=compress) as publisher, Follower(folder, current) as follower:
            for version, model in enumerate(models_of):
                assert publisher.publish(model) == version
                assert follower.poll() == version
                for name, tensor in formats.read(current).tensors.items():
                    assert tensor.values.tobytes() == model.tensors[name].values.tobytes()
        sizes[compress] = (folder / "000001.delta").stat().st_size
        assert not formats.open(folder / "000002.model")._parts[0].packed
    assert sizes["file"] < 0.4 * sizes[None]
    with Publisher(tmp_path / "steps-file", "r", compress="file") as again:
        assert again.version == 2
