"""Small inputs that would expand to a lot: every reader refuses them with one clear error, and takes little memory.

Each case reads in a forked child, whose peak of resident memory is compared with what it had at the fork.
"""

import json
import os
import struct
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

import formats
from formats import compress
from formats.check import violations
from formats.dialects.sources import open_changes, open_source
from formats.dialects.weight_sync import apply_weight_sync

gguf, torch, zstandard = (pytest.importorskip(name) for name in ("gguf", "torch", "zstandard"))
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

LIMIT = 1 << 24
"""The limit that every reader gets; all bombs expand to sixteen times as much or more."""
BOMB = 1 << 28
MOST = 1 << 26
"""The most by which the memory of a child may grow. A bomb of BOMB bytes takes more if a reader expands it."""
MAGIC, RUN = zstandard.FRAME_HEADER, 1 << 17


def read_all(checkpoint):
    """Read every tensor, one after the other, as a conversion does."""
    for name in checkpoint.tensors:
        formats.to_dense(checkpoint.tensors[name], limit=LIMIT)


def opened(path, **options):
    read_all(open_source(path, limit=LIMIT, **options))


def checked(path):
    """Return the error that `seft check` prints first."""
    raise next(error for _, error in violations(path, limit=LIMIT))


def shown(path):
    """Read what `seft show` prints."""
    with formats.open(path) as reader:
        assert reader.names()


# bombs -------------------------------------------------------------------------------------------


def lying_frame(stated):
    """Return a zstd frame that states some bytes, and holds BOMB bytes in runs of four bytes each.

    Its window is 128 KiB, so that libzstd, which compares sizes at the end of a frame, expands all of it.
    """
    runs = b"".join((last | 1 << 1 | RUN << 3).to_bytes(3, "little") + b"\7" for last in [0] * (BOMB // RUN - 1) + [1])
    return MAGIC + b"\xc0\x38" + stated.to_bytes(8, "little") + runs


def zeros(folder, nbytes=BOMB, **options):
    """Write a checkpoint of a dense tensor of zeros, and of few random bytes, as a single file."""
    # without the random bytes the frame of a packed file would be so small that it could not be written
    noise = np.random.default_rng(1).integers(0, 256, nbytes // 512, np.uint8)
    tensors = {"noise": formats.Dense(noise), "w": formats.Dense(np.zeros((nbytes // 1024, 1024), np.uint8))}
    path = folder / ("m.zst" if options.get("compress") == "file" else "m.sparse")
    formats.write_file(path, formats.Checkpoint("model", tensors), **options)
    return path


def packed_zeros(folder):
    return zeros(folder, compress="file")


def packed_nothing(folder):
    """A packed file whose content is no checkpoint, of which the first eight bytes tell."""
    noise = np.random.default_rng(1).bytes(BOMB // 512)
    (folder / "m.zst").write_bytes(zstandard.ZstdCompressor(level=1).compress(bytes(BOMB) + noise))
    return folder / "m.zst"


def packed_lie(folder):
    """A packed file that states as many bytes as a plain one has, and holds more behind its header."""
    plain = zeros(folder, 1 << 22).read_bytes()
    frame = lying_frame(len(plain))
    # the header is stored as it is, so that it is read before the lie is found
    head = plain[: 1 << 11]
    block = (len(head) << 3).to_bytes(3, "little") + head
    (folder / "m.zst").write_bytes(frame[:14] + block + frame[14:])
    return folder / "m.zst"


def compressed_zeros(folder):
    return zeros(folder, compress="zstd")


def compressed_lie(folder):
    """A compressed section that states the bytes of its manifest, and holds more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compress, "pack", lambda raw, _: lying_frame(raw.size) if raw.size > RUN else None)
        return zeros(folder, 1 << 22, compress="zstd")


def empty_rows(folder):
    """A sparse matrix without values, which takes BOMB bytes as a dense one."""
    rows = BOMB >> 16
    empty = formats.Sparse((rows, 1 << 16), np.zeros(rows + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint8))
    formats.write_file(folder / "m.sparse", formats.Checkpoint("model", {"w": empty}))
    return folder / "m.sparse"


def version_of(frame, encoding, size):
    def make(folder):
        path = folder / "weight_v000007"
        path.mkdir()
        sums = {"w": f"{zlib.adler32(bytes(size)):08x}"}
        (path / "m.safetensors").write_bytes(save({"w": np.frombuffer(frame, np.uint8)}, metadata=sums))
        about = {"version": "000007", "base_version": "000006", "delta_encoding": encoding}
        about |= {"compression_format": "zstd", "checksum_format": "adler32"}
        index = {"metadata": about, "weight_map": {"w": "m.safetensors"}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
        return path

    return make


def base_of(size):
    return formats.Checkpoint("model", {"w": formats.Dense(np.zeros(size, np.uint8))})


def changed(size):
    return lambda path: read_all(open_changes(path, base_of(size), "weight-sync"))


def applied(size):
    return lambda path: read_all(apply_weight_sync(base_of(size), [path]))


def wide(path):
    """A version folder over a sparse base, which is expanded to change its bytes."""
    base = open_source(empty_rows(path.parent), limit=LIMIT)
    read_all(apply_weight_sync(base, [path], limit=LIMIT))


def wide_delta(path):
    base = open_source(empty_rows(path.parent), limit=LIMIT)
    read_all(open_changes(path, base, "weight-sync", limit=LIMIT))


def pickled(steps):
    def make(folder):
        with zipfile.ZipFile(folder / "m.pt", "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("m/data.pkl", b"\x80\x02" + steps + b".")
            archive.writestr("m/version", b"3\n")
        return folder / "m.pt"

    return make


def coo(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape, none = (BOMB // 8, 3), torch.zeros((2, 0), dtype=torch.int64)
        torch.save({"w": torch.sparse_coo_tensor(none, torch.zeros(0), shape).coalesce()}, folder / "m.pt")
    return folder / "m.pt"


def npz_folder(folder, *, lies):
    """A folder of one NPZ file of BOMB deflated zeros, which may state fewer."""
    path = folder / "scipy"
    path.mkdir()
    (path / "index.json").write_text('{"w":"w.npz"}')
    with zipfile.ZipFile(path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("format.npy", bytes(BOMB))
    if lies:
        raw = (path / "w.npz").read_bytes()
        size = struct.pack("<I", BOMB)
        # in the header of the member and in the directory; both have the name behind it
        behind = struct.pack("<H", len("format.npy"))
        assert raw.count(size + behind) == 2
        (path / "w.npz").write_bytes(raw.replace(size + behind, struct.pack("<I", 1000) + behind))
    return path


def gguf_file(folder):
    """Weights of two bits, which expand to sixteen times their bytes."""
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama")
    blocks = np.zeros((BOMB // 1024, 66), np.uint8)
    writer.add_tensor("w", blocks, raw_dtype=gguf.GGMLQuantizationType.TQ2_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "m.gguf"


def model_folder(folder, tensors, config):
    path = folder / "hf"
    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return path


def awq_folder(folder):
    """Codes of four bits, which expand to four times their bytes."""
    rows, columns = 1 << 12, 1 << 14
    tensors = {
        "a.qweight": np.zeros((rows, columns // 8), np.int32),
        "a.qzeros": np.zeros((1, columns // 8), np.int32),
        "a.scales": np.zeros((1, columns), np.float16),
    }
    quantisation = {"quant_method": "awq", "bits": 4, "group_size": rows, "version": "gemm", "zero_point": True}
    return model_folder(folder, tensors, {"quantization_config": quantisation})


def stated_shape(folder):
    """A bitmask of compressed-tensors that states 2^31 - 1 rows of no bytes."""
    tensors = {
        "a.bitmask": np.zeros((0, 1), np.uint8),
        "a.compressed": np.zeros(0, np.float32),
        "a.shape": np.array([2**31 - 1, 1]),
        "a.row_offsets": np.zeros(0, np.int64),
    }
    return model_folder(folder, tensors, {"sparsity_config": {"format": "sparse-bitmask"}})


def announced(folder):
    """A safetensors file of 16 bytes that announces a header of 100 MB."""
    path = model_folder(folder, {"w": np.zeros(1, np.float32)}, {})
    (path / "model.safetensors").write_bytes(struct.pack("<Q", 100_000_000) + bytes(8))
    return path


def wide_lora(folder):
    """An adapter of two vectors, whose product is a matrix of BOMB elements, for a base of other shape."""
    path = folder / "lora"
    path.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["w"]}
    (path / "adapter_config.json").write_text(json.dumps(config))
    side = 1 << 14
    prefix = "base_model.model.a"
    factors = {f"{prefix}.lora_A.weight": np.ones((1, side), np.float32)}
    save_file(factors | {f"{prefix}.lora_B.weight": np.ones((side, 1), np.float32)}, path / "adapter_model.safetensors")
    return path


def over_small(path):
    base = formats.Checkpoint("model", {"a.weight": formats.Dense(np.zeros((4, 4), np.float32))})
    read_all(open_changes(path, base))


PACKED = "FMT-177|FMT-021|FMT-022"
CASES = {
    "packed, shown": (packed_zeros, shown, "accepted"),
    "packed, converted": (packed_zeros, opened, "FMT-098"),
    "packed, checked": (packed_zeros, checked, "FMT-098"),
    "packed nothing, shown": (packed_nothing, shown, PACKED),
    "packed nothing, checked": (packed_nothing, checked, PACKED),
    "packed nothing, converted": (packed_nothing, opened, PACKED),
    "packed lie, converted": (packed_lie, opened, "FMT-177"),
    "packed lie, checked": (packed_lie, checked, "FMT-177"),
    "sections, converted": (compressed_zeros, opened, "FMT-098"),
    "sections, checked": (compressed_zeros, checked, "FMT-098"),
    "a lying section": (compressed_lie, opened, "FMT-142"),
    "no values": (empty_rows, opened, "FMT-098"),
    "xor": (version_of(lying_frame(1 << 21), "xor", 1 << 21), changed(1 << 21), "FMT-168"),
    "xor, applied": (version_of(lying_frame(1 << 21), "xor", 1 << 21), applied(1 << 21), "FMT-168"),
    "xor of nothing": (version_of(lying_frame(0), "xor", 0), changed(0), "FMT-168"),
    "overwrite": (version_of(lying_frame(1 << 21), "overwrite", 1 << 21), changed(1 << 21), "FMT-168"),
    "xor of a sparse base": (version_of(lying_frame(BOMB), "xor", BOMB), wide, "FMT-098"),
    "xor of a sparse base, as a delta": (version_of(lying_frame(BOMB), "xor", BOMB), wide_delta, "FMT-098"),
    "pickle": (pickled(b"(" + b"]" * 12_000_000 + b"t"), opened, "FMT-153"),
    "coo": (coo, opened, "FMT-098"),
    "npz": (lambda folder: npz_folder(folder, lies=False), opened, "FMT-098"),
    "npz that lies": (lambda folder: npz_folder(folder, lies=True), opened, "FMT-153"),
    "gguf": (gguf_file, lambda path: opened(path, expand_quantised=True), "FMT-098"),
    "awq": (awq_folder, lambda path: opened(path, expand_quantised=True), "FMT-098"),
    "bitmask": (stated_shape, opened, "FMT-150"),
    "header": (announced, opened, "FMT-121"),
    "lora": (wide_lora, over_small, "FMT-152"),
}


def in_child(work):
    """Run work in a forked child; return its error and the bytes by which its resident memory grew at most."""
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        # JAX warns of a fork, and Python of one beside threads, where other tests of this process have started them
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        try:
            before, told = resident("VmRSS"), "accepted"
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - the parent judges it
                told = f"{type(error).__name__}: {error}"
            os.write(writes, json.dumps([told, resident("VmHWM") - before]).encode()[:4000])
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said)


def resident(key):
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("case", CASES)
def test_FMT_096_a_small_input_takes_little_memory_and_one_error(tmp_path, case):
    make, read, clause = CASES[case]
    path = make(tmp_path)
    told, grown = in_child(lambda: read(path))
    assert told.split(": ")[0] in ("FormatError", "ExpansionTooLarge", "CannotHold", "accepted"), told
    assert any(one in told for one in clause.split("|")), told
    assert "\n" not in told
    assert grown < MOST, f"{grown >> 20} MiB"
