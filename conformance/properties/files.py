"""Properties of files and deltas (chapter 12)."""

import json
import struct
from collections.abc import Sequence
from typing import Any

from conformance.answers.files_content import content, raw_array
from conformance.oracle import files, files_deltas
from conformance.oracle.files import Tensor
from conformance.properties.draws import Draw
from conformance.properties.trial import Trial, property_of

_CODES = {"F32": "f", "F64": "d", "I16": "h"}


def checkpoint(tensors: dict[str, Tensor], attributes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return inputs of `file.write` and `file.compress`: a model in the encoding `auto`."""
    texts = {"attributes": files.text(attributes or {}), "scales": "{}", "delta": "null"}
    return {"kind": "model", "tensors": content(tensors), "tied": {}, "encoding": "auto"} | texts


def _tensors(d: Draw, t: Trial) -> dict[str, Tensor]:
    """Return up to three tensors: sparse, dense, masks, or with an N:M pattern."""
    tensors = {}
    for name in d.some(("w", "a", "é", "m.weight"), d.integer(0, 3)):
        shape = d.shape(8)
        at = d.mask(shape)[0] if not d.flag(4) else d.pattern((shape[0], 4), 2, 4)
        shape = shape if at and max(at) < shape[0] * shape[1] else (shape[0], max(shape[1], 4))
        at = [p for p in at if p < shape[0] * shape[1]]
        kind = d.choice(("F32", "F64", "I16", "NONE"))
        whole = len(at) == shape[0] * shape[1]
        t.saw("a mask", kind == "NONE")
        t.saw("a full support", whole)
        t.saw("an empty row", at and len({p // shape[1] for p in at}) < shape[0])
        support = tuple(divmod(p, shape[1]) for p in at)
        if kind == "NONE":
            tensors[name] = Tensor(kind, shape, b"", support)
            continue
        numbers: list[Any] = d.with_specials(d.levels(len(at), 3)) if kind != "I16" else d.integers(len(at), 0, 999)
        t.saw("a stored zero", 0 in numbers)
        tensors[name] = Tensor(
            kind, shape, struct.pack(f"<{len(at)}{_CODES[kind]}", *numbers), None if whole else support
        )
    return tensors


def _first_of(raw: bytes, section: str) -> int:
    """Return the offset of the first byte of a section in a file."""
    size = int.from_bytes(raw[:8], "little")
    return 8 + size + int(json.loads(raw[8 : 8 + size])[section]["data_offsets"][0])


_FILES = ("a mask", "a full support", "an empty row", "a stored zero")


@property_of("file.read", "FMT-001 FMT-003 FMT-091 FMT-099", "ckpt-read", "file.read", sees=(*_FILES, "a changed byte"))
def _read(d: Draw, t: Trial) -> None:
    """A reader returns the tensors of a file built byte by byte, and refuses it if a byte of a value has changed."""
    tensors = _tensors(d, t)
    raw = bytearray(files.pieces(tensors).pack())
    filled = [name for name, x in tensors.items() if x.bits]
    if filled and d.flag(4):
        raw[_first_of(bytes(raw), f"{d.choice(filled)}#values")] ^= 1 << d.integer(0, 7)
        t.saw("a changed byte")
    t.case("file.read", {"raw": raw_array(bytes(raw))})


@property_of("file.write", "FMT-080 FMT-081 FMT-092", "ckpt-write", "file.write", sees=_FILES)
def _write(d: Draw, t: Trial) -> None:
    """A checkpoint is written as the only bytes that chapter 12 allows."""
    t.case("file.write", checkpoint(_tensors(d, t)))


@property_of("file.round", "FMT-001 FMT-002 FMT-080", "ckpt-write", "file.write file.read", sees=_FILES)
def _round(d: Draw, t: Trial) -> None:
    """A checkpoint that is written and read again is the same."""
    inputs = checkpoint(_tensors(d, t))
    raw = t.case("file.write", inputs)
    if raw is not None:
        t.related("back", ("file.write", inputs), ("file.read", {"raw": raw["raw"]}))


_Delta = tuple[dict[str, Tensor], dict[str, Any]]
"""The stored operations of a delta, and its description."""

_NUMBERS = ("F32", "F16", "BF16", "F64")
_KINDS = ("replace", "remove", "both", "add", "whole", "gone", "nothing")


def _number(d: Draw, dtype: str, n: int, unit: float) -> bytes:
    """Return n values of a dtype: multiples of a unit, or random bytes."""
    if dtype not in _NUMBERS:
        return bytes(d.integers(n, 0, 255))
    return b"".join(files_deltas.rounded(dtype, x) for x in d.levels(n, 40, unit))


def _stored(d: Draw, dtype: str, shape: tuple[int, int], at: list[int], unit: float = 0.125) -> Tensor:
    raw = _number(d, dtype, len(at), unit)
    size = len(raw) // max(len(at), 1)
    return files_deltas.tensor(dtype, shape, {p: raw[i * size : (i + 1) * size] for i, p in enumerate(at)})


def _any_tensor(d: Draw) -> Tensor:
    shape = d.shape(5)
    return _stored(d, d.choice((*_NUMBERS, "U8")), shape, d.mask(shape)[0])


def _operations(d: Draw, kind: str, w: Tensor) -> dict[str, Tensor]:
    """Return operation -> stored tensor for a change of one tensor."""
    shape = (w.shape[0], w.shape[1])
    positions, size = list(files_deltas.cells(w)), shape[0] * shape[1]
    if kind == "whole":
        return {"whole": _any_tensor(d)}
    if kind == "add":
        # the units are so small that sums round, some of them at a tie between two numbers
        amounts = _stored(d, d.choice(_NUMBERS), shape, d.subset(size), 2.0 ** -d.integer(0, 14))
        return {"add": amounts} if w.dtype in _NUMBERS and amounts.bits else {}
    operations = {}
    away = [positions[i] for i in d.subset(len(positions))] if kind in ("remove", "both") else []
    if away:
        operations["remove"] = files_deltas.tensor("NONE", shape, dict.fromkeys(away, b""))
    new = [p for p in d.subset(size) if p not in away] if kind in ("replace", "both") else []
    return operations | ({"replace": _stored(d, w.dtype, shape, new)} if new else {})


def _step(d: Draw, t: Trial, base: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Return the stored operations of a delta, the model after it, and the description."""
    stored: dict[str, Tensor] = {}
    gone = []
    for name, w in base.items():
        kind = d.choice(_KINDS)
        operations = {} if kind in ("gone", "nothing") else _operations(d, kind, w)
        if kind == "gone":
            gone.append(name)
        elif operations and files.content_digest(files_deltas.change(w, operations)) != files.content_digest(w):
            stored |= {f"{what}:{name}": x for what, x in operations.items()}
            t.saw("both" if len(operations) > 1 else next(iter(operations)))
    if d.flag(3) and "new" not in base:
        stored["whole:new"] = _any_tensor(d)
    t.saw("a tensor that leaves", gone)
    target, described = files_deltas.step(base, stored, tuple(gone))
    return stored, target, described


def _chain(d: Draw, t: Trial) -> tuple[dict[str, Tensor], list[_Delta]]:
    """Return a model and at most two deltas, without deltas that change nothing."""
    base = {name: _any_tensor(d) for name in d.some(("w", "a", "m.weight"), d.integer(1, 3))}
    target, chain = base, []
    for _ in range(d.integer(1, 2)):
        stored, after, described = _step(d, t, target)
        if described["tensors"]:
            target = after
            chain.append((stored, described))
    return base, chain


def linked(base: dict[str, Tensor], chain: Sequence[_Delta]) -> dict[str, Any]:
    """Return inputs of `delta.apply`."""
    packed = [files.pieces(stored, kind="delta", delta=described).pack() for stored, described in chain]
    deltas = {str(i + 1): raw_array(raw) for i, raw in enumerate(packed)}
    return {"base": raw_array(files.pieces(base).pack()), "deltas": deltas}


@property_of(
    "delta.apply",
    "FMT-132 FMT-134 FMT-135 FMT-136 FMT-138",
    "ckpt-read",
    "delta.apply",
    sees=("replace", "remove", "both", "add", "whole", "a tensor that leaves", "a chain", "a change of every position"),
)
def _apply(d: Draw, t: Trial) -> None:
    """Deltas change a model position by position into the model that they name."""
    base, chain = _chain(d, t)
    t.saw("a chain", len(chain) > 1)
    t.saw("a change of every position", any(x.support is None for stored, _ in chain for x in stored.values()))
    if chain:
        t.case("delta.apply", linked(base, chain))


_WRONG = ("another base", "another result", "in another order", "one of them twice", "values of another dtype",
          "an infinite sum", "no delta")  # fmt: skip


@property_of(
    "delta.refuses",
    "FMT-131 FMT-133 FMT-135 FMT-137 FMT-138 FMT-139",
    "ckpt-read",
    "delta.apply",
    sees=_WRONG,
)
def _refused(d: Draw, t: Trial) -> None:
    """Deltas that do not fit the model, each other, or their own description are refused."""
    base, chain = _chain(d, t)
    wrong = d.choice(_WRONG)
    if not chain or (wrong == "in another order" and len(chain) < 2):
        return
    stored, described = chain[-1]
    if wrong == "another base":
        base = base | {"zz": _any_tensor(d)}
    elif wrong == "another result":
        chain[-1] = stored, described | {"target_sha256": "5e" * 32}
    elif wrong == "in another order":
        chain.reverse()
    elif wrong == "one of them twice":
        chain.append(chain[-1])
    elif wrong in ("values of another dtype", "an infinite sum"):
        keys = [key for key in stored if key.startswith("add" if wrong == "an infinite sum" else "replace")]
        if not keys:
            return
        old = stored[keys[0]]
        dtype = "F64" if wrong == "an infinite sum" else "I32" if old.dtype != "I32" else "U8"
        raw = struct.pack("<d", 1e308) if dtype == "F64" else bytes(files.BITS[dtype] // 8)
        at = dict.fromkeys(files_deltas.cells(old), raw)
        chain[-1] = stored | {keys[0]: files_deltas.tensor(dtype, (old.shape[0], old.shape[1]), at)}, described
    inputs = linked(base, chain)
    if wrong == "no delta":
        inputs["deltas"][str(len(chain))] = inputs["base"]
    t.saw(wrong)
    t.case("delta.apply", inputs)
