"""Random valid checkpoints: any rank, dtype, encoding, pattern and support, ties, scales, attributes, deltas."""

from dataclasses import replace
from math import prod
from random import Random
from typing import Any

from conformance.oracle import files
from conformance.oracle.files import BITS, Pieces, Tensor, on

MOST = 120
"""The most positions of an ordinary tensor. Small tensors reach the same rules as large ones, and are read faster."""

NAMES = ("w", "a", "a!", "b", "é", "\U0001f600", " ", "layers.0.q", "A", "z:z", "replace:w", "\uffff", "x" * 512)
KINDS = ("model", "training-state", "m", "a-0")
WORDS = ("", "x", 'é\n\u0001"\\', "\U0001f600/\x7f", "0x1.8p+1", "\u2028\t\b")


def shape_of(chance: Random, least: int = 0) -> tuple[int, ...]:
    """Return a shape of at most MOST positions, or rarely one of many columns or rows."""
    rank = chance.choice((least, 1, 2, 2, 2, 3, 3, 4, 8))
    if least <= rank <= 2 and rank and chance.random() < 0.06:
        wide = chance.choice((65535, 65536, 65537, 70000, 2**31 - 1))
        return (wide,) if rank == 1 else (chance.randint(1, 3), wide)
    if rank and chance.random() < 0.02:
        return (*[1] * (rank - 1), 0) if chance.random() < 0.5 else (chance.choice((300, 4096)), 0)
    shape: list[int] = []
    for _ in range(rank):
        room = MOST // prod(d for d in shape if d)
        shape.append(min(chance.choice((0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 33, 64)), room))
    chance.shuffle(shape)
    return tuple(shape)


def bits_of(chance: Random, dtype: str, count: int) -> bytes:
    """Return `count` random values of a dtype; a BOOL is 0 or 1, and no spare bit is set (FMT-070, FMT-072)."""
    width = BITS[dtype]
    raw = bytearray(chance.randbytes((count * width + 7) // 8))
    if dtype == "BOOL":
        raw = bytearray(byte & 1 for byte in raw)
    elif chance.random() < 0.3:
        raw = bytearray(chance.choice((0, 1, 128, 255)) for _ in raw)
    if width and width % 8 and count * width % 8:
        raw[-1] &= (1 << count * width % 8) - 1
    return bytes(raw)


def support_of(chance: Random, shape: tuple[int, ...]) -> list[int]:
    """Return sorted flat positions: none, all, or a random share of them."""
    numel = prod(shape)
    if not numel or chance.random() < 0.05:
        return []
    if numel > 4 * MOST:
        edges = {0, numel - 1, min(65535, numel - 1), shape[-1] - 1} if chance.random() < 0.5 else set()
        return sorted(edges | {chance.randrange(numel) for _ in range(chance.randint(0, 12))})
    if chance.random() < 0.05:
        return list(range(numel))
    return sorted(chance.sample(range(numel), min(numel, round(numel * chance.random() ** 2) + chance.randint(0, 1))))


def regular(chance: Random) -> tuple[tuple[int, ...], tuple[int, int, int], list[int]]:
    """Return a shape, a pattern (n, m, axis), and the positions of a support that keeps the pattern (FMT-051)."""
    m = chance.choice((2, 3, 4, 4, 7, 8, 16, 32, 64))
    n, rank = chance.randint(1, m - 1), chance.randint(1, 4)
    axis, shape = chance.randrange(rank), [chance.randint(1, 3) for _ in range(rank)]
    shape[axis] = m * chance.randint(1, 3)
    step, at = prod(shape[axis + 1 :]), []
    for group in range(prod(shape) // m):
        first = group // step * m * step + group % step
        at += [first + p * step for p in chance.sample(range(m), n)]
    return tuple(shape), (n, m, axis), sorted(at)


def tensor(chance: Random, dtype: str | None = None) -> tuple[Tensor, str]:
    """Return a tensor and an encoding that can store it."""
    dtype = dtype or chance.choice((*BITS, "F16", "BF16", "F32", "NONE", "BOOL"))
    if dtype != "NONE" and chance.random() < 0.2:
        shape = shape_of(chance)
        while prod(shape) > 4 * MOST:
            shape = shape_of(chance)
        return Tensor(dtype, shape, bits_of(chance, dtype, prod(shape))), "dense"
    if chance.random() < 0.004:
        return far(chance, dtype), "varint"
    if chance.random() < 0.3:
        shape, pattern, at = regular(chance)
        return on(dtype, shape, at, bits_of(chance, dtype, len(at)), pattern=pattern), "nm"
    shape = shape_of(chance, 1)
    at = support_of(chance, shape)
    stored = on(dtype, shape, at, bits_of(chance, dtype, len(at)))
    rows, columns = prod(shape[:-1]), shape[-1]
    able = ["gap8", "varint", "csr"]
    able = [code for code in able if code != "gap8" or prod(shape) < 2**20]
    if columns and rows * columns < 2**20:
        able += ["bitmask", "bitmask"]
    if dtype != "NONE" and len(at) == prod(shape):
        able.append("dense")
    return stored, chance.choice(able)


def far(chance: Random, dtype: str) -> Tensor:
    """Return a tensor of many rows and columns with gaps of up to 8 bytes (FMT-056, FMT-073)."""
    rows, columns = chance.choice((16, 1000, 65536, 2**18 + 1)), 2**31 - 1
    at = {rows * columns - 1 - chance.randrange(3), *(chance.randrange(rows * columns) for _ in range(4))}
    positions = sorted(at if chance.random() < 0.5 else {*range(4), max(at)})
    return on(dtype, (rows, columns), positions, bits_of(chance, dtype, len(positions)))


def names(chance: Random, count: int) -> list[str]:
    """Return `count` different tensor names (FMT-009)."""
    longest = chance.random() < 0.1
    return chance.sample(NAMES if longest or count == len(NAMES) else NAMES[:-1], count)


def value(chance: Random, levels: int = 3) -> Any:
    """Return a random value of an attribute (FMT-011)."""
    kind = chance.randrange(8 if levels else 5)
    if kind < 5:
        return chance.choice((None, True, False, 0, -1, 2**53 - 1, 1 - 2**53, 7, *WORDS))
    if kind == 5:
        return [value(chance, levels - 1) for _ in range(chance.randrange(3))]
    return {chance.choice(WORDS): value(chance, levels - 1) for _ in range(chance.randrange(3))}


def checkpoint(chance: Random, frames: float = 0.0) -> Pieces:
    """Return a valid checkpoint in pieces; a share `frames` of its larger value sections is compressed (FMT-140)."""
    if chance.random() < 0.15:
        return delta(chance)
    stored, encodings = {}, {}
    for name in names(chance, chance.choice((0, 1, 1, 1, 1, 1, 2, 2, 3))):
        stored[name], encodings[name] = tensor(chance)
    ties: dict[str, str] = {}
    scales: dict[str, dict[str, str]] = {}
    if stored and chance.random() < 0.2:
        ties = {f"tied{i}": chance.choice(sorted(stored)) for i in range(chance.randint(1, 2))}
    if len(stored) > 1 and chance.random() < 0.3:
        one, two = chance.sample(sorted(stored), 2)
        scales = {one: {chance.choice(("scale", "zero_point", "a_1")): two}}
    attributes = {chance.choice(WORDS): value(chance) for _ in range(chance.choice((0, 0, 1, 3)))}
    more: dict[str, Any] = {"tied": ties, "scales": scales, "attributes": attributes, "kind": chance.choice(KINDS)}
    pieces = files.pieces(stored, encodings, **more, frames=_frames(chance, stored, encodings, frames))
    if chance.random() < 0.05:
        pieces.manifest |= {"spec": chance.choice(("1.1", "1.10", "1.9999")), "optional": ["a", "b-1"]}
    return pieces


def _frames(chance: Random, stored: dict[str, Tensor], encodings: dict[str, str], share: float) -> dict[str, bytes]:
    """Return section -> zstd frame. The values become one byte repeated, so that no encoder is needed (FMT-142)."""
    frames = {}
    for name, t in stored.items():
        size, byte = len(t.bits), chance.choice((0, 1))
        if 13 <= size <= 12 * 1024 and BITS[t.dtype] >= 8 and chance.random() < share:
            stored[name] = replace(t, bits=bytes([byte]) * size)
            frames[f"{name}#values"] = files.rle_frame(size, byte)
    return frames


def delta(chance: Random) -> Pieces:
    """Return a delta with random digests of base and target, which a reader of the delta cannot check (FMT-131)."""
    stored, encodings, listed = {}, {}, {}
    for name in names(chance, chance.choice((0, 1, 1, 2, 3)))[:3]:
        if len(name) > 100:
            continue
        base, target = (chance.randbytes(32).hex() for _ in range(2))
        what = chance.choice((("replace",), ("remove",), ("replace", "remove"), ("add",), ("whole",), (), ("whole",)))
        for operation in what:
            dtype = {"remove": "NONE", "add": chance.choice(("F16", "BF16", "F32", "F64"))}.get(operation)
            change, code = tensor(chance, dtype)
            stored[f"{operation}:{name}"], encodings[f"{operation}:{name}"] = change, code
        new = what == ("whole",) and chance.random() < 0.5
        listed[name] = {"base": None if new else base, "target": target if what else None}
    if chance.random() < 0.7 and {"replace", "remove"} <= {key.partition(":")[0] for key in stored}:
        _agree(chance, stored, encodings)
    ties = {"t": "u"} if chance.random() < 0.3 else {}
    scales = {"s": {"scale": "v"}} if chance.random() < 0.3 else {}
    described: dict[str, Any] = {"base_sha256": chance.randbytes(32).hex(), "target_sha256": chance.randbytes(32).hex()}
    described |= {"scales": scales, "tensors": listed, "tied": ties}
    return files.pieces(stored, encodings, kind="delta", delta=described)


def _agree(chance: Random, stored: dict[str, Tensor], encodings: dict[str, str]) -> None:
    """Give each `remove` the shape of the `replace` of the same tensor, and other positions (FMT-133)."""
    for key in [key for key in stored if key.startswith("remove:")]:
        other = stored.get(f"replace:{key[7:]}")
        if other is not None and other.shape and prod(other.shape) <= MOST:
            free = [at for at in range(prod(other.shape)) if divmod(at, other.shape[-1]) not in (other.support or ())]
            at = sorted(chance.sample(free, len(free) // 2)) if other.support is not None else []
            stored[key], encodings[key] = on("NONE", other.shape, at, b""), "csr"
