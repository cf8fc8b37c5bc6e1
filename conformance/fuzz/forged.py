"""Forged inputs that state much more data than they have; each is measured in a process of its own (FMT-096).

python -m conformance.fuzz --mode foreign --forged prints the table of docs/results/fuzzing.md.
"""

import json
import resource
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from conformance.answers.files_content import content, raw_array
from conformance.engine.port import reference_numpy
from conformance.fuzz.base_models import Plain
from conformance.fuzz.foreign import OPERATIONS, Case, fuzzer_of, lay, reader_of
from conformance.fuzz.foreign_files import Folder, Piece, Stock, Tree
from conformance.fuzz.operations import size_of
from conformance.fuzz.packed import FILE
from conformance.oracle.files import Tensor
from conformance.oracle.files_convert import INDEX, WHOLE
from conformance.oracle.files_convert_adapters import CONFIG as OF_ADAPTER
from conformance.oracle.files_convert_adapters import WEIGHTS
from conformance.oracle.files_versions import MAGIC
from conformance.protocol.port import Refused
from formats.errors import FormatError

BASE_BYTES, CONFIG = 16, "config.json"
Input = tuple[str, Any]
"""The name of an operation and its inputs, or of a reader and its case."""

Forged = Callable[[], Input]


def _adapter(kind: str, tree: Tree) -> Input:
    base = content({"w": Tensor("U8", (BASE_BYTES,), bytes(BASE_BYTES))})
    return "convert.adapter", {"kind": kind, "files": _arrays(tree), "tensors": base}


def _codes(tree: Tree) -> Input:
    return "convert.codes", {"files": _arrays(tree), "expand_quantised": 1, "encoding": "auto"}


def _arrays(tree: Tree) -> dict[str, Any]:
    return {name: raw_array(raw or b"") for name, raw in tree.items()}


def _version(frame: bytes, encoding: str = "xor", **metadata: Any) -> Input:
    """Return a version folder that changes a tensor of 16 bytes by one frame."""
    defaults = {"version": "000007", "base_version": "000006", "delta_encoding": encoding, "compression_format": "zstd"}
    sums = {"w": f"{zlib.adler32(bytes(BASE_BYTES)):08x}"}
    index = {"metadata": defaults | {"checksum_format": "adler32"} | metadata, "weight_map": {"w": WHOLE}}
    stock = Stock([Piece("w", "U8", [len(frame)], frame)], sums)
    return _adapter("weight-sync", Folder({INDEX: index}, {WHOLE: stock}).pack())


def _sized(size: int, *blocks: bytes, window: bytes = b"\xe0") -> bytes:
    return MAGIC + window + size.to_bytes(8, "little") + b"".join(blocks)


def _run(length: int, *, last: bool) -> bytes:
    return (last | 1 << 1 | length << 3).to_bytes(3, "little") + b"\7"


def huge_frame() -> Input:
    """A frame states 2^40 bytes."""
    return _version(_sized(2**40, _run(1 << 17, last=True)))


def many_runs() -> Input:
    """A frame states 16 bytes, and holds 100,000 runs of 128 KiB, 13 GB in all."""
    return _version(_sized(BASE_BYTES, *[_run(1 << 17, last=False)] * 100_000, window=b"\xc0\x38"))


def wide_window() -> Input:
    """A frame of 16 bytes asks for a window of 128 MiB."""
    raw = (1 | BASE_BYTES << 3).to_bytes(3, "little") + bytes(BASE_BYTES)
    return _version(_sized(BASE_BYTES, raw, window=b"\xc0\x88"))


def huge_count() -> Input:
    """An overwrite states 2^32 − 1 changed bytes."""
    raw = (1 | 9 << 3).to_bytes(3, "little") + struct.pack("<IIB", 2**32 - 1, 0, 1)
    return _version(_sized(9, raw), "overwrite")


def long_version() -> Input:
    """A version has 4,000,000 digits."""
    return _version(b"", version="7" * 4_000_000)


def _stock(head: dict[str, Any], config: str, weights: str, **more: Any) -> Tree:
    """Return a folder whose safetensors file has a header and no data."""
    text = json.dumps(head).encode()
    return {config: json.dumps(more).encode(), weights: struct.pack("<Q", len(text)) + text}


def huge_tensor() -> Input:
    """A header states codes of 2^50 bytes."""
    head = {"a.qweight": {"dtype": "I32", "shape": [2**24, 2**24], "data_offsets": [0, 2**50]}}
    return _codes(_stock(head, CONFIG, WHOLE, quantization_config={"quant_method": "awq", "bits": 4}))


def many_tensors() -> Input:
    """A header lists 20,000 tensors without elements."""
    head = {f"{i}.qweight": {"dtype": "I32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}
    description = {"quant_method": "awq", "bits": 4, "group_size": -1}
    return _codes(_stock(head, CONFIG, WHOLE, quantization_config=description))


def long_header() -> Input:
    """A file of 16 bytes announces a header of 100,000,000 bytes."""
    return _codes({WHOLE: struct.pack("<Q", 100_000_000) + bytes(8), CONFIG: b"{}"})


def _packed(*stated: int) -> Input:
    """Return a matrix of pack-quantized that states a shape, and holds one word of codes."""
    pieces = [
        Piece("a.weight_shape", "I64", [2], struct.pack("<2q", *stated)),
        Piece("a.weight_packed", "I32", [1, 1], bytes(4)),
        Piece("a.weight_scale", "F16", [1, 1], bytes(2)),
    ]
    weights = {"num_bits": 4, "strategy": "channel", "group_size": -1, "symmetric": True}
    description = {"format": "pack-quantized", "config_groups": {"g": {"targets": [], "weights": weights}}}
    config = {"quantization_config": {"quant_method": "compressed-tensors"} | description}
    return _codes(Folder({CONFIG: config}, {WHOLE: Stock(pieces)}).pack())


def huge_shape() -> Input:
    """A packed matrix states 2^31 − 1 rows and columns."""
    return _packed(2**31 - 1, 2**31 - 1)


def huge_row() -> Input:
    """A packed matrix states 1 row of 2^31 − 1 columns."""
    return _packed(1, 2**31 - 1)


def huge_bitmask() -> Input:
    """Codes with a bitmask state 2^31 − 1 rows."""
    pieces = [
        Piece("a.bitmask", "U8", [1, 1], b"\1"),
        Piece("a.compressed", "I8", [1], b"\1"),
        Piece("a.shape", "I64", [2], struct.pack("<2q", 2**31 - 1, 1)),
        Piece("a.row_offsets", "I64", [1], bytes(8)),
        Piece("a.weight_scale", "F16", [1, 1], bytes(2)),
    ]
    group = {"targets": [], "weights": {"num_bits": 8, "strategy": "channel"}}
    description = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"g": group}}
    config = {"quantization_config": description, "sparsity_config": {"format": "sparse-bitmask"}}
    return _codes(Folder({CONFIG: config}, {WHOLE: Stock(pieces)}).pack())


def huge_adapter() -> Input:
    """An adapter's header states 2^50 amounts."""
    path = "base_model.model.a.supertuning_"
    head = {
        f"{path}values": {"dtype": "F16", "shape": [2**49], "data_offsets": [0, 2**50]},
        f"{path}indices": {"dtype": "I32", "shape": [2**49], "data_offsets": [2**50, 3 * 2**50]},
    }
    return _adapter("super-tuning", _stock(head, OF_ADAPTER, WEIGHTS, peft_type="SUPERTUNING", sparsity=0))


def deep_config() -> Input:
    """An adapter's configuration has 5,000,000 brackets."""
    return _adapter("super-tuning", {OF_ADAPTER: b"[" * 5_000_000, WEIGHTS: struct.pack("<Q", 2) + b"{}"})


def far_step() -> Input:
    """A folder of steps has version 0 and the delta of version 10^18 − 1."""
    return "steps", Case({"steps": {"000000.model": b"", "9" * 18 + ".delta": b""}, "own": {}})


def huge_patch() -> Input:
    """A patch of one value states a tensor of 2^80 elements."""
    from conformance.fuzz.patches import Patch  # imported here, because it needs torch

    words = {"name": "w", "shape": [2**40, 2**40], "dtype": "F32", "form": "vllm"}
    at = Tensor("I64", (1,), struct.pack("<q", 2**60))
    return "patches", Case(
        {}, ({"w": Plain("F32", (4,), bytes(16))}, [Patch(words, Tensor("F32", (1,), bytes(4)), at)])
    )


def bomb() -> Input:
    """A packed file of 8 kB is one frame of 256 MiB."""
    return "packed", Case({"own": {FILE: zstandard.ZstdCompressor().compress(bytes(1 << 28))}})


def lying_frame() -> Input:
    """A packed file states 2^50 bytes."""
    return "packed", Case({"own": {FILE: MAGIC + b"\xe0" + (1 << 50).to_bytes(8, "little") + bytes(64)}})


FORGED: tuple[Forged, ...] = (
    *(huge_frame, many_runs, wide_window, huge_count, long_version, huge_patch),
    *(huge_tensor, many_tensors, long_header, huge_shape, huge_row, huge_bitmask),
    *(huge_adapter, deep_config, far_step, bomb, lying_frame),
)


def measure(forged: Forged) -> None:
    """Print as JSON the answer of a reader to a forged input, and how much the peak memory of this process grew."""
    name, case = forged()
    with tempfile.TemporaryDirectory() as folder:
        # imports and compiled loops must not count as memory of the forged input
        cases, _ = fuzzer_of(name, 1)
        for number in range(20):
            _read(name, cases[number], Path(folder) / f"{number}")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        clause = _read(name, case, Path(folder) / "forged")
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(map(size_of, case.values())) if name in OPERATIONS else case.nbytes
    print(json.dumps({"reader": name, "answer": clause, "kib": after - before, "bytes": size}))


def _read(name: str, case: Any, place: Path) -> str:
    try:
        if name in OPERATIONS:
            reference_numpy().call(name, case, "float64")
        else:
            place.mkdir()
            lay(case, place)
            reader_of(name).read(case, place)
    except (FormatError, Refused) as error:
        return error.clause
    return "accepted"


def table() -> int:
    """Print a table of the memory that readers take for each forged input; return the exit status."""
    print("| reader | input | bytes of input | answer | MB at most |\n|---|---|---:|---|---:|")
    for number, forged in enumerate(FORGED):
        command = [sys.executable, "-m", "conformance.fuzz.forged", str(number)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        report = json.loads(done.stdout)
        what = (forged.__doc__ or "").rstrip(".")
        print(
            f"| {report['reader']} | {what} | {report['bytes']:,} | {report['answer']} | {report['kib'] / 1024:.1f} |"
        )
    return 0


if __name__ == "__main__":
    measure(FORGED[int(sys.argv[1])])
