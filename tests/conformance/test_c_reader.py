"""The reader in C: its command, its library, the example of chapter 12; `test_three_readers` asks it the vectors."""

import ctypes
import itertools
import os
import random
import struct
import subprocess

import numpy as np

import formats
from conformance.answers import answer
from conformance.oracle import files
from conformance.oracle.files import Tensor, digest, on, text
from tests.conformance.test_second_reader import EXAMPLE
from tests.conformance.test_three_readers import CASES

FAR = [0, 1, 254, 510, 1000, 1254, 1510, 3999]
DENSE = {
    f"{case.id} {name}": (case.inputs["raw"], name)
    for case in CASES.values()
    if not case.refused and "zstd" not in case.id
    for name, t in case.expected["tensors"].items()
    if np.prod(t["shape"]) < 10_000 and name.isascii() and name.isprintable()
}
"""Small tensors of the vectors: a file, and a name in it."""


def test_dense_expansion(c_reader, tmp_path):
    for told, (raw, name) in random.Random(1).sample(sorted(DENSE.items(), key=lambda row: row[0]), 120):
        (tmp_path / "file").write_bytes(raw.tobytes())
        found = subprocess.run([c_reader.command, "--dense", name, tmp_path / "file"], check=True, capture_output=True)
        assert found.stdout == answer("file.expand", {"raw": raw, "name": name}).outputs["bits"].tobytes(), told


def test_FMT_098_a_small_file_does_not_expand_to_gigabytes(c_reader, tmp_path):
    """1 KiB describes 8 GiB of zeros; the error names the limit and the option."""
    empty = formats.with_values(formats.from_flat((65536, 32768), np.zeros(0, np.int64)), np.zeros(0, np.uint8))
    formats.write_file(tmp_path / "file", formats.Checkpoint("model", {"w": empty}))
    told = subprocess.run([c_reader.command, "--dense", "w", tmp_path / "file"], check=False, capture_output=True)
    assert told.returncode == 1
    assert told.stdout == b""
    assert b"FMT-098 a dense array of 2147483648 bytes is above 1073741824; raise --limit" in told.stderr
    small = [c_reader.command, "--limit", "10", "--dense", "w", tmp_path / "dense"]
    (tmp_path / "dense").write_bytes(files.pieces({"w": Tensor("F32", (3, 5), bytes(60))}).pack())
    assert subprocess.run(small, check=False, capture_output=True).returncode == 1


def test_FMT_165_a_pipe_is_not_waited_for(c_reader, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    told = subprocess.run([c_reader.command, tmp_path / "pipe"], check=False, capture_output=True, timeout=20)
    assert told.returncode == 2


def test_arrays_and_limits_of_the_library(c_reader):
    library, data = c_reader.library, files.pieces({"t": on("F16", (4, 1000), FAR)}, {"t": "gap8"}).pack()
    library.seft_open.restype = ctypes.c_void_p
    error, zero = ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    file = ctypes.c_void_p(library.seft_open(data, ctypes.c_size_t(len(data)), error))
    rows = (ctypes.c_int64 * 5)()
    for integer in (ctypes.c_int32, ctypes.c_int64):
        columns = (integer * 8)()
        assert library.seft_support(file, zero, rows, columns, ctypes.c_size_t(ctypes.sizeof(integer)), error)
        assert list(rows) == [0, 4, 7, 7, 8]
        assert list(columns) == [p % 1000 for p in FAR]
    assert c_reader.library.seft_support(file, zero, rows, columns, ctypes.c_size_t(2), error) == 0
    out = ctypes.create_string_buffer(8000)
    assert library.seft_dense(file, zero, out, ctypes.c_size_t(8000), error) == 1
    assert library.seft_dense(file, zero, out, ctypes.c_size_t(7999), error) == 0
    assert error.value == b"FMT-098"
    library.seft_close(file)


def test_the_example_of_the_specification_FMT_093(c_reader):
    lines = c_reader.judge(EXAMPLE)[2]
    assert lines[0]["root"] == "23203c36f4238cbd26e6cc67fd069249b2dd7f719304cd926b341bcb754ae1db"
    state = '{"scales":{},"tensors":{"w":"4b42d561e2c38c25f526f64b3e1d367d23920dfc0e296234998ca422506b8b76"},"tied":{}}'
    assert [lines[0][key] for key in ("attributes", "delta", "scales", "tied")] == [{"step": 7}, None, {}, {}]
    assert lines[0]["state"] == digest(state.encode())
    assert lines[1]["row_pointers_sha256"] == digest(struct.pack("<3q", 0, 2, 3))


def test_every_truncation_and_every_flipped_byte_of_the_example_is_refused(c_reader):
    data = EXAMPLE
    for end in range(len(data)):
        assert c_reader.judge(data[:end])[0] == 1, end
    assert c_reader.judge(data + b"\0")[1] == "FMT-035"
    for at, flip in itertools.product(range(len(data)), (1, 0x20, 0x80, 0xFF)):
        assert c_reader.judge(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])[0] == 1, (at, flip)


def test_sha256(c_reader):
    for size in [*range(130), 1000, 4096, 99999]:
        data, found = random.Random(size).randbytes(size), ctypes.create_string_buffer(65)
        c_reader.library.seft_sha256(data, ctypes.c_size_t(size), found)
        assert found.value.decode() == digest(data)


def test_headers_of_many_small_members_stay_within_the_memory_bound_FMT_096(c_reader):
    many, made = 20_000, files.pieces({})
    for told in (dict.fromkeys((f"{i:x}" for i in range(many)), 0), [[]] * many, [[[0] * many]]):
        assert c_reader.judge(files.assemble(text(made.manifest | {"tensors": told}), []))[0] == 1
        assert c_reader.judge(files.assemble(text(made.manifest | {"attributes": {"a": told}}), []))[0] == 0
    empty = {f"{i:x}": {"data_offsets": [0, 0], "dtype": "U8", "shape": []} for i in range(many)}
    assert c_reader.judge(files.assemble(text(made.manifest), [], change=lambda h: h.update(empty)))[1] == "FMT-032"
