"""Mutations for every foreign folder: values and spelling of JSON, headers, tensors, bytes, files."""

import struct
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from random import Random
from typing import Any

from conformance.fuzz import frames, mutate
from conformance.fuzz.foreign_files import Folder, Piece, Tree, size_of
from conformance.fuzz.loop import seed_of
from conformance.fuzz.mutate import CANNOT
from conformance.fuzz.spelling import respelled
from conformance.fuzz.spoil import bytes_of
from conformance.fuzz.strings import INTEGERS, a_string
from conformance.oracle.files import BITS
from conformance.oracle.files_versions import MAGIC
from conformance.oracle.foreign import DTYPES

Mutation = Callable[[Random, Folder], object]
Weighted = Sequence[tuple[Mutation, int]]


def spoil(chance: Random, folder: Folder, own: Weighted, *, general: Weighted | None = None) -> None:
    """Apply one to three mutations to a folder; one that does not apply gives way to another.

    Args:
        chance: the random generator of the execution.
        folder: the folder to change.
        own: mutations with weights beside those of `GENERAL`, which sum to 50.
        general: mutations in the place of `GENERAL`.
    """
    weighted = (*(GENERAL if general is None else general), *own, *(((rest, 200),) if folder.rest else ()))
    left = chance.choice((1, 1, 1, 2, 3))
    for _ in range(20):
        chosen = chance.choices([m for m, _ in weighted], [weight for _, weight in weighted])[0]
        try:
            chosen(chance, folder)
            left -= 1
        except CANNOT:
            continue
        if not left:
            return


def pack(folder: Folder) -> Tree:
    """Return the files of a folder; an empty folder if a mutation left pieces that cannot be packed."""
    try:
        return folder.pack()
    except (*CANNOT, UnicodeError):
        return {}


def of_value(chance: Random, value: Any) -> Any:
    """Return a JSON value with one place changed, removed or renamed."""
    path, old = chance.choice(mutate.walk(value))
    if not path:
        return mutate.other(chance, old)
    owner = value
    for key in path[:-1]:
        owner = owner[key]
    kind = chance.random()
    if kind < 0.75:
        owner[path[-1]] = mutate.other(chance, old)
    elif kind < 0.9 or isinstance(owner, list):
        owner.pop(path[-1])
    else:
        owner[a_string(chance, path[-1])] = owner.pop(path[-1])
    return value


def text(chance: Random, folder: Folder) -> None:
    """Change the value or the spelling of a JSON file."""
    name = chance.choice(sorted(folder.texts))
    if chance.random() < 0.7:
        folder.texts[name] = of_value(chance, folder.texts[name])
    else:
        seed = chance.random()
        # a separate generator, because the function runs only when the folder is packed
        folder.of_texts.append((name, lambda old: respelled(Random(seed), old)))  # noqa: S311 - not for secrets


def header(chance: Random, folder: Folder) -> None:
    """Change the header of a safetensors file: an entry, an offset, its spelling or its length."""
    stock, seed, kind = chance.choice([*folder.files.values()]), chance.random(), chance.randrange(4)
    own = Random(seed)  # noqa: S311 - not for secrets
    if kind == 0:
        stock.of_text.append(lambda old: respelled(own, old))
    elif kind == 1:
        stock.of_bytes.append(lambda raw: _length(own, raw))
    else:
        stock.of_header.append(lambda head: _entry(own, head))


def _length(chance: Random, raw: bytes) -> bytes:
    length = int.from_bytes(raw[:8], "little")
    other = chance.choice((length + 1, length - 1, length + 8, len(raw), len(raw) - 8, *INTEGERS))
    return (other % 2**64).to_bytes(8, "little") + raw[8:]


def _entry(chance: Random, head: dict[str, Any]) -> None:
    try:
        entry = head[chance.choice(sorted(head))]
        kind = chance.randrange(4)
        if kind == 0:
            at = chance.randrange(2)
            entry["data_offsets"][at] = chance.choice((entry["data_offsets"][at] + 1, *INTEGERS))
        elif kind == 1:
            entry["data_offsets"] = [x + chance.choice((1, 8, -8)) for x in entry["data_offsets"]]
        else:
            changed = of_value(chance, head)
            if isinstance(changed, dict):
                head |= changed
    except CANNOT:
        return


def tensor(chance: Random, folder: Folder) -> None:
    """Change dtype, shape, bytes, name or place of a tensor."""
    stock = chance.choice([stock for stock in folder.files.values() if stock.pieces])
    at, kind = chance.randrange(len(stock.pieces)), chance.randrange(9)
    one = stock.pieces[at]
    if kind == 0:
        one.dtype = chance.choice((*DTYPES, "F15", ""))
    elif kind == 1:
        one.shape = mutate.other(chance, one.shape)
    elif kind == 2:
        refit(chance, one)
    elif kind == 3:
        one.data = bytes_of(chance, one.data)
    elif kind == 4:
        one.name = a_string(chance, one.name)
    elif kind == 5:
        stock.pieces.pop(at)
    elif kind == 6:
        stock.pieces.append(Piece(one.name + chance.choice(("", ".x", "_scale")), one.dtype, [*one.shape], one.data))
    elif kind == 7:
        other = chance.choice(stock.pieces)
        one.data, other.data = other.data, one.data
    else:
        other = chance.choice(stock.pieces)
        one.name, other.name = other.name, one.name


def numbers(chance: Random, folder: Folder) -> None:
    """Change one number of a tensor, or of the content of a zstd frame, or all of them."""
    one = chance.choice([piece for piece in folder.pieces() if piece.data])
    if one.data[:4] == MAGIC:
        content = frames.content_of(one.data)
        if content and chance.random() < 0.5:
            changed = _number(chance, content, chance.choice(("U32", "U8")))
            one.data = frames.framed(chance, changed if chance.random() < 0.8 else bytes_of(chance, content))
        else:
            one.data = frames.spoiled(chance, one.data)
        one.shape = [len(one.data)]
    elif chance.random() < 0.2:
        one.data = chance.choice((chance.randbytes(len(one.data)), bytes(len(one.data)), one.data[::-1]))
    else:
        one.data = _number(chance, one.data, one.dtype)


_FLOATS = {"F16": "<e", "F32": "<f", "F64": "<d"}
_NUMBERS = (0.5, -0.0, 1.0, 2.0, 3.0, -1.0, 2.0**24, 65504.0, 65520.0, 3e38, 1e-45, float("inf"), float("nan"))


def _number(chance: Random, raw: bytes, dtype: str) -> bytes:
    """Return the bytes of a tensor with one number changed: to another of it, a near one, or one at the edge."""
    width = max(BITS.get(dtype, 8) // 8, 1)
    at, other = (chance.randrange(len(raw) // width) * width for _ in range(2))
    old, kind = int.from_bytes(raw[at : at + width], "little"), chance.randrange(4)
    if kind == 0:
        new = raw[other : other + width]
    elif kind == 1 and (dtype in _FLOATS or dtype == "BF16"):
        value = chance.choice(_NUMBERS)
        try:
            new = struct.pack(_FLOATS.get(dtype, "<f"), value)[-width:]
        except OverflowError:
            new = struct.pack("<e", -value / 2**120)
    else:
        edges = (old + 1, old - 1, old ^ 1 << 8 * width - 1, -1, chance.randrange(30), *INTEGERS)
        new = (chance.choice(edges) % 2**64).to_bytes(8, "little")[:width].ljust(width, b"\0")
    return raw[:at] + new + raw[at + width :]


def exchanging(words: Mapping[str, Sequence[Any]], other: Folder) -> Weighted:
    """Return mutations that take keys and values from stored cases, and files, tensors and values from a folder.

    Args:
        words: key -> the values that it has in JSON texts of stored cases.
        other: the folder.
    """

    def word(chance: Random, folder: Folder) -> None:
        """Give a key of a JSON text, or metadata, a value that some case has for it."""
        places: list[Any] = [stock.metadata for stock in folder.files.values() if isinstance(stock.metadata, dict)]
        for text in folder.texts.values():
            places += [value for _, value in mutate.walk(text) if isinstance(value, dict)]
        there = [key for place in places for key in place if key in words]
        key = chance.choice(sorted(words) if chance.random() < 0.3 or not there else there)
        having = [place for place in places if key in place]
        chance.choice(having or places)[key] = deepcopy(chance.choice(words[key]))

    def graft(chance: Random, folder: Folder) -> None:
        """Copy an object of a JSON text to another place of it, with a number changed or not."""
        text = chance.choice([*folder.texts.values()])
        objects = [value for _, value in mutate.walk(text) if isinstance(value, dict)]
        copy, owner = deepcopy(chance.choice(objects)), chance.choice(objects)
        if chance.random() < 0.5:
            copy = of_value(chance, copy)
        owner[chance.choice((*owner, *words))] = copy

    def part(chance: Random, folder: Folder) -> None:
        """Give a tensor or a copy of it the last word of another one's name, or change the start of all names."""
        stock = chance.choice([stock for stock in folder.files.values() if stock.pieces])
        if chance.random() < 0.3:
            word = chance.choice(chance.choice(stock.pieces).name.split("."))
            for piece in stock.pieces:
                piece.name = piece.name.replace(f"{word}.", f"{word.swapcase()}.", 1)
            return
        one, names = chance.choice(stock.pieces), [piece.name for piece in (*folder.pieces(), *other.pieces())]
        name = f"{one.name.rpartition('.')[0]}.{chance.choice(names).rpartition('.')[2]}"
        if chance.random() < 0.5:
            one.name = name
        else:
            stock.pieces.append(Piece(name, one.dtype, [*one.shape], one.data))

    def exchange(chance: Random, folder: Folder) -> None:
        """Take a tensor, its content, or a file from the other folder."""
        kind = chance.randrange(4)
        if kind == 0:
            name = chance.choice(sorted({*other.texts, *other.files}))
            (folder.texts if name in other.texts else folder.files)[name] = (other.texts | other.files)[name]
            return
        stock, new = chance.choice([*folder.files.values()]), chance.choice([*other.pieces()])
        if kind == 1:
            stock.pieces.append(new)
        else:
            one = chance.choice(stock.pieces)
            one.dtype, one.shape, one.data = new.dtype, new.shape, new.data

    return (numbers, 44), (word, 24), (graft, 5), (part, 6), (exchange, 6)


def refit(chance: Random, one: Piece) -> None:
    """Give a tensor another shape or dtype, and bytes that fit it."""
    kind = chance.randrange(4)
    if kind == 0:
        one.dtype = chance.choice(DTYPES)
    elif kind == 1 and one.shape:
        at = chance.randrange(len(one.shape))
        one.shape[at] = max(0, chance.choice((one.shape[at] + 1, one.shape[at] - 1, 2 * one.shape[at], 0, 1)))
    elif kind == 2:
        one.shape.insert(chance.randint(0, len(one.shape)), chance.choice((0, 1, 1, 2)))
    elif one.shape:
        one.shape.pop(chance.randrange(len(one.shape)))
    size = size_of(one.dtype, one.shape)
    one.data = (one.data + bytes(size))[:size] if size < 4096 else one.data


def files(chance: Random, folder: Folder) -> None:
    """Remove, add, rename or corrupt files."""
    seed = chance.random()
    folder.of_tree.append(lambda tree: _file(Random(seed), tree))  # noqa: S311 - not for secrets


def _file(chance: Random, tree: Tree) -> None:
    if not tree:
        return
    name, kind = chance.choice(sorted(tree)), chance.randrange(8)
    raw = tree[name] or b""
    if kind == 0:
        tree.pop(name)
    elif kind == 1:
        tree[chance.choice((name.upper(), f"{name}~", f"_{name}"))] = tree.pop(name)
    elif kind == 2:
        tree[chance.choice(("notes.txt", ".hidden", "a.bin", "model-00009-of-00009.safetensors", "config.json"))] = raw
    elif kind == 3:
        tree[name] = None
    elif kind == 4:
        tree[chance.choice(sorted(tree))] = raw
    else:
        tree[name] = bytes_of(chance, raw)


def rest(chance: Random, folder: Folder) -> None:
    """Change a checkpoint of chapter 12 as single files are changed, or bytes of a file of any kind."""
    name = chance.choice(sorted(folder.rest))
    folder.rest[name] = whole(chance, folder.rest[name] or b"", b"")


def whole(chance: Random, raw: bytes, second: bytes) -> bytes:
    """Return a mutation of a file: by its parts if it is a checkpoint of chapter 12, else by bytes."""
    one, two = seed_of(raw), seed_of(second)
    if one is None:
        return bytes_of(chance, raw)
    made = raw
    while made in (raw, b""):
        # again, if no mutation applied, or the parts cannot be packed
        made = mutate.mutate(chance, one.parts(), (two or one).parts())
    return made


GENERAL: Weighted = ((text, 14), (header, 10), (tensor, 18), (files, 8))
