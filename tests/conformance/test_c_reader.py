"""The reader in C reads files that are built by hand from chapter 12 of SPEC.md, and the example of that chapter."""

import ctypes
import itertools
import math
import os
import random
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

import formats
import seft_ref
from tests.conformance.c_files import BITS, FAR, GOOD, SHAPES, TENSORS, build, sha, tensor

ROOT = Path(seft_ref.__file__).parents[1]


def dense(dtype, shape, at, values):
    """What a dense array of a tensor holds: masks as 0 and 1, values smaller than a byte in a byte each."""
    bits, unit = BITS[dtype], max(BITS[dtype] // 8, 1)
    out = bytearray(math.prod(shape) * unit)
    for slot, p in enumerate(range(math.prod(shape)) if at is None else sorted(at)):
        if bits % 8:
            out[p] = int.from_bytes(values, "little") >> slot * bits & ((1 << bits) - 1)
        else:
            out[p * unit : (p + 1) * unit] = values[slot * unit : (slot + 1) * unit] if bits else b"\x01"
    return bytes(out)


@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_read(c_reader, name):
    code, clause, lines = c_reader.judge(GOOD[name])
    assert (code, clause) == (0, ""), lines
    assert lines[0]["tensors"] == len(lines) - 1


def test_what_is_read_is_what_was_written(c_reader):
    lines = c_reader.judge(GOOD["all"])[2][1:]
    assert [line["name"] for line in lines] == sorted(TENSORS)
    for line in lines:
        entry, sections = TENSORS[line["name"]]
        at, numel = SHAPES[line["name"]][2], math.prod(entry["shape"])
        assert {key: line[key] for key in ("dtype", "shape", "nnz", "encoding")}.items() <= entry.items()
        assert line["values_sha256"] == sha(sections.get("values", (0, 0, b""))[2])
        if entry["nnz"] == numel:
            assert line["row_pointers_sha256"] is line["columns_sha256"] is None
            continue
        rows, columns = math.prod(entry["shape"][:-1]), entry["shape"][-1]
        row_ptr = [sum(p < r * columns for p in at) for r in range(rows + 1)]
        assert line["row_pointers_sha256"] == sha(struct.pack(f"<{rows + 1}q", *row_ptr))
        assert line["columns_sha256"] == sha(struct.pack(f"<{len(at)}q", *(p % columns for p in sorted(at))))


@pytest.mark.parametrize("name", SHAPES)
def test_dense_expansion(c_reader, name, tmp_path):
    (tmp_path / "file").write_bytes(GOOD["all"])
    found = subprocess.run([c_reader.command, "--dense", name, tmp_path / "file"], check=True, capture_output=True)
    dtype, shape, at = SHAPES[name][:3]
    assert found.stdout == dense(dtype, shape, at, TENSORS[name][1].get("values", (0, 0, b""))[2])


def test_FMT_098_a_small_file_does_not_expand_to_gigabytes(c_reader, tmp_path):
    """1 KiB describes 8 GiB of zeros; the error names the limit and the option."""
    empty = formats.with_values(formats.from_flat((65536, 32768), np.zeros(0, np.int64)), np.zeros(0, np.uint8))
    formats.write_file(tmp_path / "file", formats.Checkpoint("model", {"w": empty}))
    told = subprocess.run([c_reader.command, "--dense", "w", tmp_path / "file"], check=False, capture_output=True)
    assert told.returncode == 1
    assert told.stdout == b""
    assert b"FMT-098 a dense array of 2147483648 bytes is above 1073741824; raise --limit" in told.stderr
    small = [c_reader.command, "--limit", "10", "--dense", next(iter(SHAPES)), tmp_path / "all"]
    (tmp_path / "all").write_bytes(GOOD["all"])
    assert subprocess.run(small, check=False, capture_output=True).returncode == 1


def test_FMT_165_a_pipe_is_not_waited_for(c_reader, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    told = subprocess.run([c_reader.command, tmp_path / "pipe"], check=False, capture_output=True, timeout=20)
    assert told.returncode == 2


def test_arrays_and_limits_of_the_library(c_reader):
    library, data = c_reader.library, GOOD["gap8"]
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
    lines = c_reader.judge(example())[2]
    assert lines[0]["root"] == "23203c36f4238cbd26e6cc67fd069249b2dd7f719304cd926b341bcb754ae1db"
    state = '{"scales":{},"tensors":{"w":"4b42d561e2c38c25f526f64b3e1d367d23920dfc0e296234998ca422506b8b76"},"tied":{}}'
    assert [lines[0][key] for key in ("attributes", "delta", "scales", "tied")] == [{"step": 7}, None, {}, {}]
    assert lines[0]["state"] == sha(state.encode())
    assert lines[1]["row_pointers_sha256"] == sha(struct.pack("<3q", 0, 2, 3))
    made = build(
        {"w": tensor("F16", [2, 3], [0, 2, 4], "bitmask", values=bytes.fromhex("003e000000c0"))}, attributes={"step": 7}
    )
    assert made == example()


def example():
    chapter = (ROOT / "SPEC.md").read_text(encoding="utf-8").partition("## 12. Files (FMT)")[2]
    dump = re.search(r"```hexdump\n(.*?)```", chapter, re.DOTALL)[1]
    return bytes.fromhex("".join(line[6:53] for line in dump.splitlines()))


def test_every_truncation_and_every_flipped_byte_of_the_example_is_refused(c_reader):
    data = example()
    for end in range(len(data)):
        assert c_reader.judge(data[:end])[0] == 1, end
    assert c_reader.judge(data + b"\0")[1] == "FMT-035"
    for at, flip in itertools.product(range(len(data)), (1, 0x20, 0x80, 0xFF)):
        assert c_reader.judge(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])[0] == 1, (at, flip)


def test_sha256(c_reader):
    for size in [*range(130), 1000, 4096, 99999]:
        data, found = random.Random(size).randbytes(size), ctypes.create_string_buffer(65)
        c_reader.library.seft_sha256(data, ctypes.c_size_t(size), found)
        assert found.value.decode() == sha(data)
