"""Files of torch.save, read by the opcodes of their pickle without building a value (FMT-153, FMT-159); and written.

    zip of uncompressed members    archive/data.pkl    archive/data/0    archive/data/1    ...    archive/version

A tensor of the pickle is a call of `_rebuild_tensor_v2` with a storage, offset, shape and strides. A sparse one is a
call of `_rebuild_sparse_tensor` with its layout and dense parts.
"""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import prod
from typing import Any

from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_deltas import number
from conformance.oracle.foreign import need

STORAGES = {"F16": "Half", "BF16": "BFloat16", "F32": "Float", "F64": "Double", "I8": "Char", "U8": "Byte"}
STORAGES |= {"I16": "Short", "I32": "Int", "I64": "Long", "BOOL": "Bool", "C64": "ComplexFloat"}
"""Dtype -> how torch names its storage."""

LARGEST, DEEPEST, SPREAD = 2**23, 64, 256
"""The bounds of FMT-153.5: bytes of the pickle, levels, and values for each opcode."""

MOST = 2**31 - 1


@dataclass(eq=False)
class Node:
    """A value of a pickle: its kind, what it is if it holds nothing, and the values in it."""

    kind: str
    value: Any = None
    parts: list["Node"] = field(default_factory=list)


@dataclass(frozen=True)
class View:
    """A dense tensor in a storage: key of the storage, dtype, offset, shape and strides, in elements."""

    key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Sparse:
    """A sparse tensor: its layout, dense parts and shape."""

    layout: str
    parts: tuple[View, ...]
    shape: tuple[int, ...]


# reading -----------------------------------------------------------------------------------------


def members(raw: bytes) -> dict[str, bytes]:
    """Return the members of a zip by name, without the folder of `data.pkl` (FMT-153)."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            infos = archive.infolist()
            need(all(info.compress_type == zipfile.ZIP_STORED for info in infos), "members as they are")
            need(len({info.filename for info in infos}) == len(infos), "a name that is there once")
            need(min(info.header_offset for info in infos) == 0 and not archive.comment, "a zip from its first byte on")
            every = {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise ValueError(error) from error
    (pickled,) = (name for name in every if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    return {name.removeprefix(folder): data for name, data in every.items() if name.startswith(folder)}


def nodes(data: bytes) -> Node:
    """Return the value that a pickle would make, after the checks of FMT-153.5."""
    need(len(data) <= LARGEST, "a pickle that is not too large")
    stack: list[Node] = []
    memory: dict[int, Node] = {}
    steps = 0

    def above(count: int | None) -> list[Node]:
        at = len(stack) - count if count is not None else max(i for i, n in enumerate(stack) if n.kind == "mark")
        need(at >= 0, "values on the stack")
        taken = stack[at + (count is None) :]
        del stack[at:]
        return taken

    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        steps, name = steps + 1, opcode.name
        if name in ("BINUNICODE", "SHORT_BINSTRING", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"):
            stack.append(Node("text" if isinstance(argument, str) else "number", argument))
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append(Node("number", {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name]))
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_SET", "MARK"):
            stack.append(Node(name.removeprefix("EMPTY_").lower()))
        elif name.startswith("TUPLE"):
            stack.append(Node("tuple", parts=above(int(name[5:]) if name[5:] else None)))
        elif name == "GLOBAL":
            called = argument.replace(" ", ".")
            need(called.startswith("torch.") or called == "collections.OrderedDict", "calls of torch alone")
            stack.append(Node("global", called))
        elif name in ("REDUCE", "NEWOBJ", "BINPERSID"):
            kind = "storage" if name == "BINPERSID" else "object"
            stack.append(Node(kind, parts=above(1 if name == "BINPERSID" else 2)))
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"):
            taken = above({"APPEND": 1, "BUILD": 1, "SETITEM": 2}.get(name))
            need(not name.startswith("SET") or all(key.kind in ("text", "number") for key in taken[::2]), "plain keys")
            need(stack[-1].kind in ("list", "dict", "set", "object"), "a value that holds others")
            stack[-1].parts += [Node("state", parts=taken)] if name == "BUILD" else taken
        elif name in ("BINPUT", "LONG_BINPUT"):
            memory[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memory[argument])
        else:
            need(name in ("PROTO", "STOP"), "an opcode of files of tensors")
    (root,) = stack
    need(size_of(root, {}, 1) <= SPREAD * steps, "values that are not repeated without bound")
    return root


def size_of(node: Node, known: dict[int, tuple[int, int]], level: int) -> int:
    """Return how many values there are in one, itself included; refuse levels beyond the bound, so cycles too."""
    need(level <= DEEPEST, "64 levels")
    if id(node) in known and known[id(node)][1] >= level:
        return known[id(node)][0]
    total = 1 + sum(size_of(part, known, level + 1) for part in node.parts)
    known[id(node)] = total, level
    return total


def _call(node: Node) -> tuple[str, list[Node]]:
    """Return the function that an object is made by, and its arguments."""
    function, arguments = node.parts[:2]
    need((node.kind, function.kind, arguments.kind) == ("object", "global", "tuple"), "a call")
    return function.value, arguments.parts


def _whole(node: Node) -> int:
    need(type(node.value) is int and node.value >= 0, "an integer from 0")
    return int(node.value)


def _sizes(node: Node) -> tuple[int, ...]:
    """Return a shape or strides, which may be a `torch.Size`."""
    if node.kind == "object":
        name, (node,) = _call(node)
        need(name == "torch.Size", "a size")
    need(node.kind == "tuple", "a tuple")
    return tuple(_whole(part) for part in node.parts)


def _storage(node: Node) -> tuple[str, str, int]:
    """Return key, dtype and stated elements of a storage."""
    word, kind, key, _, count = node.parts[0].parts
    (dtype,) = (dtype for dtype, name in STORAGES.items() if kind.value == f"torch.{name}Storage")
    need(word.value == "storage" and key.kind == "text", "a storage")
    return key.value, dtype, _whole(count)


def _bounded(root: Node, members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the bytes that each storage of a pickle states, which its member has (FMT-153.4)."""
    made, pending, known = {}, [root], {id(root)}
    while pending:
        node = pending.pop()
        if node.kind == "storage":
            key, dtype, count = _storage(node)
            size = count * BITS[dtype] // 8
            need(len(members[f"data/{key}"]) >= size, "a member with the stated elements")
            made[key] = members[f"data/{key}"][:size]
        pending += [part for part in node.parts if id(part) not in known]
        known |= {id(part) for part in node.parts}
    return made


def _view(node: Node) -> View:
    """Return a dense tensor or parameter."""
    need(len(node.parts) == 2, "a tensor without a state of its own")
    name, arguments = _call(node)
    if name == "torch._utils._rebuild_parameter":
        return _view(arguments[0])
    need(name == "torch._utils._rebuild_tensor_v2", "a tensor")
    storage, offset, shape, strides, _, hooks = arguments
    need(_call(hooks)[0] == "collections.OrderedDict" and len(hooks.parts) == 2, "no hooks")
    need(storage.kind == "storage", "a storage")
    key, dtype, _ = _storage(storage)
    view = View(key, dtype, _whole(offset), _sizes(shape), _sizes(strides))
    need(len(view.shape) == len(view.strides), "as many strides as dimensions")
    return view


def _tensor(node: Node) -> View | Sparse:
    name, arguments = _call(node)
    if name != "torch._utils._rebuild_sparse_tensor":
        return _view(node)
    layout, data = arguments
    of_layout, (text,) = _call(layout)
    need(of_layout == "torch.serialization._get_layout", "a layout")
    count = {"torch.sparse_csr": 3, "torch.sparse_coo": 2}[text.value]
    return Sparse(text.value, tuple(_view(part) for part in data.parts[:count]), _sizes(data.parts[count]))


def _entries(node: Node) -> dict[str, Node]:
    """Return the entries of a dict or an OrderedDict, a later one in the place of an earlier one of its name."""
    parts = node.parts
    if node.kind == "object":
        need(_call(node)[0] == "collections.OrderedDict", "a dict")
        parts = [part for part in node.parts[2:] if part.kind != "state"]
    else:
        need(node.kind == "dict", "a dict")
    need(all(key.kind == "text" for key in parts[::2]), "texts as names")
    return {key.value: value for key, value in zip(parts[::2], parts[1::2], strict=True)}


def elements(view: View, storages: Mapping[str, bytes]) -> bytes:
    """Return the bytes of a dense tensor, row-major (FMT-153.4)."""
    size, storage = BITS[view.dtype] // 8, storages[view.key]
    need(prod(d or 1 for d in view.shape) < 2**53 and len(view.shape) <= 8, "a shape (FMT-007)")
    need(size * prod(view.shape) <= len(storage), "no more bytes than the storage has")
    places = [
        view.offset + sum(i * stride for i, stride in zip(at, view.strides, strict=True))
        for at in product(*map(range, view.shape))
    ]
    need(all(size * (at + 1) <= len(storage) for at in places), "elements of the storage")
    return b"".join(storage[size * at : size * (at + 1)] for at in places)


def _numbers(view: View, storages: Mapping[str, bytes]) -> list[int]:
    code = {"I8": "b", "U8": "B", "I16": "h", "I32": "i", "I64": "q"}[view.dtype]
    return [*struct.unpack(f"<{prod(view.shape)}{code}", elements(view, storages))]


def _sparse(t: Sparse, storages: Mapping[str, bytes]) -> Tensor:
    """Return a sparse tensor after a look at its indices (FMT-153.7, FMT-153.8)."""
    values, shape = t.parts[-1], t.shape
    need(1 <= len(shape) <= 8 and max(shape) <= MOST and len(values.shape) == 1, "a sparse tensor of scalars")
    (count,) = values.shape
    if t.layout == "torch.sparse_csr":
        need(len(shape) == 2 and t.parts[0].shape == (shape[0] + 1,) and t.parts[1].shape == (count,), "parts that fit")
        pointers, columns = (_numbers(part, storages) for part in t.parts[:2])
        need(pointers[0] == 0 and pointers[-1] == count and all(a <= b for a, b in pairwise(pointers)), "row pointers")
        rows = [columns[a:b] for a, b in pairwise(pointers)]
        need(all(0 <= c < shape[1] for c in columns), "columns in range")
        need(all(a < b for row in rows for a, b in pairwise(row)), "columns that rise")
        support = [(r, c) for r, row in enumerate(rows) for c in row]
    else:
        need(t.parts[0].shape == (len(shape), count), "parts that fit")
        flat = _numbers(t.parts[0], storages)
        axes = [flat[i * count : (i + 1) * count] for i in range(len(shape))]
        need(all(0 <= i < d for axis, d in zip(axes, shape, strict=True) for i in axis), "indices in range")
        support = []
        for at in zip(*axes, strict=True):
            row = 0
            for i, d in zip(at[:-1], shape[:-1], strict=True):
                row = row * d + i
            support.append((row, at[-1]))
        need(all(a < b for a, b in pairwise(support)), "positions that rise")
    return Tensor(values.dtype, shape, elements(values, storages), tuple(support))


def read(raw: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file, and the names that are tied to others; masked parameters are two tensors yet.

    Raises:
        Refused, ValueError, LookupError, TypeError, AttributeError: the file breaks a rule.
    """
    every = members(raw)
    root = nodes(every["data.pkl"])
    storages, entries = _bounded(root, every), _entries(root)
    inner = entries.get("state_dict")
    if inner is not None and (inner.kind == "dict" or inner.parts[0].value == "collections.OrderedDict"):
        need(len(entries) == 1, "nothing beside the state dict")
        entries = _entries(inner)
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    owners: dict[View | Sparse, str] = {}
    for name, node in entries.items():
        t = _tensor(node)
        empty = isinstance(t, Sparse) and not any(prod(part.shape) for part in t.parts)
        if prod(t.shape) and not empty and (owner := owners.setdefault(t, name)) != name:
            tied[name] = owner
            continue
        tensors[name] = Tensor(t.dtype, t.shape, elements(t, storages)) if isinstance(t, View) else _sparse(t, storages)
        flags = tensors[name].bits if tensors[name].dtype == "BOOL" else b""
        need(max(flags, default=0) <= 1, "booleans of 0 and 1")
    return tensors, tied


def masked(tensors: Mapping[str, Tensor], tied: Mapping[str, str]) -> dict[str, Tensor]:
    """Return tensors with each pair `X_orig`, `X_mask` as one (FMT-159)."""
    made = dict(tensors)
    for name, values in tensors.items():
        stem = name.removesuffix("_orig")
        mask = tensors.get(f"{stem}_mask")
        if stem == name or mask is None or values.support is not None or mask.support is not None:
            continue
        if not values.shape or values.shape != mask.shape:
            continue
        flags = [_number(mask, i) for i in range(mask.nnz)]
        need(all(flag in (0, 1) for flag in flags), "a mask of 0 and 1")
        need(stem not in tensors and not {stem, name, f"{stem}_mask"} & {*tied, *tied.values()}, "a pair of its own")
        size, at = BITS[values.dtype] // 8, [i for i, flag in enumerate(flags) if flag]
        bits = b"".join(values.bits[i * size : (i + 1) * size] for i in at)
        del made[name], made[f"{stem}_mask"]
        made[stem] = Tensor(values.dtype, values.shape, bits, tuple(divmod(i, values.shape[-1]) for i in at))
    return made


def _number(t: Tensor, i: int) -> float:
    size = BITS[t.dtype] // 8
    raw = t.bits[i * size : (i + 1) * size]
    return number(t.dtype, raw) if t.dtype in ("F16", "BF16", "F32", "F64") else int.from_bytes(raw, "little")


# writing -----------------------------------------------------------------------------------------

Stored = View | Sparse | bytes
"""What a pickle has under a name: a tensor, or opcodes that push another value."""


def text(word: str) -> bytes:
    """Return the opcode that pushes a text."""
    return pickle.BINUNICODE + struct.pack("<I", len(word.encode())) + word.encode()


def call(name: str, *arguments: bytes) -> bytes:
    """Return the opcodes that push what a function makes of arguments."""
    module, _, function = name.rpartition(".")
    head = pickle.GLOBAL + f"{module}\n{function}\n".encode()
    return head + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def _integers(values: Iterable[int]) -> bytes:
    every = b"".join(pickle.LONG1 + b"\x08" + struct.pack("<q", one) for one in values)
    return pickle.MARK + every + pickle.TUPLE


def pushed(t: Stored, sizes: Mapping[str, int]) -> bytes:
    """Return the opcodes that push a tensor; sizes has the elements of each storage."""
    if isinstance(t, bytes):
        return t
    if isinstance(t, Sparse):
        layout = call("torch.serialization._get_layout", text(t.layout))
        end = pickle.NEWTRUE if t.layout == "torch.sparse_coo" else b""
        shape = call("torch.Size", _integers(t.shape))
        data = pickle.MARK + b"".join(pushed(part, sizes) for part in t.parts) + shape + end + pickle.TUPLE
        return call("torch._utils._rebuild_sparse_tensor", layout, data)
    kind = pickle.GLOBAL + f"torch\n{STORAGES[t.dtype]}Storage\n".encode()
    about = text("storage") + kind + text(t.key) + text("cpu") + _integers([sizes[t.key]])[1:-1]
    storage = pickle.MARK + about + pickle.TUPLE + pickle.BINPERSID
    offset = _integers([t.offset])[1:-1]
    none = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", storage, offset, _integers(t.shape), _integers(t.strides),
                pickle.NEWFALSE, none)  # fmt: skip


def pickled(entries: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the opcodes that push a dict of pushed values."""
    every = b"".join(text(name) + value for name, value in entries)
    return pickle.EMPTY_DICT + pickle.MARK + every + pickle.SETITEMS


def zipped(root: bytes, storages: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return the file of a pickle whose opcodes push one value, and of storages by key."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), pickle.PROTO + b"\2" + root + pickle.STOP, method)
        for name, raw in {**{f"data/{key}": raw for key, raw in storages.items()}, "version": b"3\n"}.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), raw, method)
    return data.getvalue()


def saved(tensors: Mapping[str, Stored], storages: Mapping[str, tuple[str, bytes]], *, nested: bool = False) -> bytes:
    """Return the file of tensors in storages, which have a dtype and bytes; nested puts them under `state_dict`."""
    sizes = {key: 8 * len(raw) // BITS[dtype] for key, (dtype, raw) in storages.items()}
    root = pickled([(name, pushed(t, sizes)) for name, t in tensors.items()])
    return zipped(pickled([("state_dict", root)]) if nested else root, {key: raw for key, (_, raw) in storages.items()})


def whole(key: str, dtype: str, shape: tuple[int, ...]) -> View:
    """Return a tensor that fills a storage, row-major."""
    return View(key, dtype, 0, shape, tuple(prod(shape[i + 1 :]) for i in range(len(shape))))
