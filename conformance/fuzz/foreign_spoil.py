"""Mutations for every foreign folder: values and spelling of JSON, headers, tensors, bytes, files."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from conformance.fuzz import mutate
from conformance.fuzz.foreign_files import Folder, Piece, Tree, size_of
from conformance.fuzz.mutate import CANNOT
from conformance.fuzz.spelling import respelled
from conformance.fuzz.spoil import bytes_of
from conformance.fuzz.strings import INTEGERS, a_string
from conformance.oracle.foreign import DTYPES

Mutation = Callable[[Random, Folder], object]
Weighted = Sequence[tuple[Mutation, int]]


def spoil(chance: Random, folder: Folder, own: Weighted) -> None:
    """Apply one to three mutations to a folder; a mutation that does not apply is skipped.

    Args:
        chance: the random generator of the execution.
        folder: the folder to change.
        own: the mutations of the format, with weights beside those of `GENERAL`, which sum to 50.
    """
    weighted = (*GENERAL, *own)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chosen = chance.choices([m for m, _ in weighted], [weight for _, weight in weighted])[0]
        try:
            chosen(chance, folder)
        except CANNOT:
            continue


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


GENERAL: Weighted = ((text, 14), (header, 10), (tensor, 18), (files, 8))
