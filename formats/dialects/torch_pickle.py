"""Checks the pickle of a torch file before torch loads it (FMT-153).

check_pickle(data, "model.pt")      raises, or returns if torch can load the same bytes in bounded time

torch's own restricted loader decides what a pickle may call. It does not bound what a pickle may repeat: a tuple of
twice the same tuple, sixty levels deep, takes 700 bytes, and its hash as the key of a dict takes longer than a life.
So this module follows the opcodes with one record a value, and builds no value.
"""

import pickle
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from formats.errors import FormatError

MAX_BYTES = 1 << 23
"""Most bytes of a pickle. torch.save takes about 146 for a dense tensor and 337 for a sparse one with a name of 60
characters, so that 57,000 or 25,000 of them fit. A check takes up to 114 bytes of memory for a byte, 0.9 GiB in all."""
MAX_DEPTH = 64
"""Levels of a value within another; a state dict needs about ten."""
SPREAD = 256
"""Most values that a pickle may hold for each of its opcodes; a value counts once for each place where it appears."""

# the opcodes that torch's restricted loader accepts. _FIXED: bytes of the argument; _COUNTED: bytes of its length
_TEXT, _NUMBER, _MARK, _TUPLE, _GLOBAL = "text", "number", "mark", "tuple", "global"
_OPEN = ("list", "dict", "set", "object")
_FIXED = {pickle.BININT: 4, pickle.BININT1: 1, pickle.BININT2: 2, pickle.BINFLOAT: 8, pickle.PROTO: 1}
_FIXED |= {pickle.BINPUT: 1, pickle.LONG_BINPUT: 4, pickle.BINGET: 1, pickle.LONG_BINGET: 4}
_COUNTED = {pickle.BINUNICODE: 4, pickle.SHORT_BINSTRING: 1, pickle.LONG1: 1}
_SCALARS = {
    **dict.fromkeys((pickle.BINUNICODE, pickle.SHORT_BINSTRING), _TEXT),
    **dict.fromkeys((pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT), _NUMBER),
    **dict.fromkeys((pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE), _NUMBER),
}
_EMPTY = {pickle.EMPTY_TUPLE: _TUPLE, pickle.EMPTY_LIST: "list", pickle.EMPTY_DICT: "dict", pickle.EMPTY_SET: "set"}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}


@dataclass(slots=True, eq=False)
class _Value:
    """A value that the pickle would make: its kind, and the values in it."""

    kind: str
    parts: Sequence["_Value"] = ()
    size: int = 1
    """how many values it contains, itself included, each counted once per place; 0 while that is unknown"""
    depth: int = 1
    """levels of values in it, itself included; unknown while size is"""
    argument: bytes = b""
    """the bytes of its opcode, of a text, an integer or a global; they are read only where they name a storage"""

    def extend(self, parts: Sequence["_Value"]) -> None:
        """Put more values into a list, dict, set or object; KeyError for a value that holds none."""
        if self.kind not in _OPEN:
            raise KeyError(self.kind)
        if not isinstance(self.parts, list):
            self.parts = list(self.parts)
        self.parts.extend(parts)
        self.size = 0


_PLAIN = {kind: _Value(kind) for kind in (_TEXT, _NUMBER, _MARK, _TUPLE, _GLOBAL)}
"""Kind -> the record of all values of a kind that hold nothing, so that a byte of a pickle costs few in memory."""


@dataclass(frozen=True, slots=True)
class StorageId:
    """A storage that a pickle names: its class such as ``"FloatStorage"``, its key, and its number of elements."""

    kind: str
    key: str
    numel: int


def check_pickle(data: bytes, file: str, trusted: Collection[str] = ()) -> list[StorageId]:
    """Verify that a pickle calls nothing outside torch, has plain keys, and repeats no value without bound.

    Returns the storages that it names, in order.

    Args:
        data: the pickle, in the opcodes that torch's restricted loader takes.
        file: its name in messages.
        trusted: full names of other functions and classes that it may call.

    Raises:
        FormatError: FMT-153, in time proportional to the bytes.
    """
    check_size(len(data), file)
    machine = _Machine(file, {"collections.OrderedDict", *trusted})
    steps = 0
    try:
        for opcode, argument in _steps(data):
            steps += 1
            machine.step(opcode, argument)
    # raised if the data end too soon, the stack or a place in memory is empty, or text is not UTF-8
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise FormatError("FMT-153", f"{file} is damaged: its pickle goes wrong after {steps} steps") from error
    if len(machine.stack) != 1:
        raise FormatError("FMT-153", f"{file} is damaged: its pickle makes {len(machine.stack)} values, expected one")
    _check_spread(machine.stack[0], steps, file)
    return machine.storages


def check_size(nbytes: int, file: str) -> None:
    """Verify that a pickle has at most `MAX_BYTES`, before anything of it is read.

    Raises:
        FormatError: FMT-153.
    """
    if nbytes > MAX_BYTES:
        raise FormatError(
            "FMT-153",
            f"{file} has a pickle of {nbytes} bytes, at most {MAX_BYTES} are allowed; save module.state_dict() alone, "
            "or in several files",
        )


def _steps(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each opcode and the bytes of its argument, up to STOP; IndexError if the data end before."""
    at = 0
    while (opcode := data[at : at + 1]) != pickle.STOP:
        at += 1
        size = _FIXED.get(opcode, 0)
        if opcode in _COUNTED:
            size = int.from_bytes(data[at : at + _COUNTED[opcode]], "little")
            at += _COUNTED[opcode]
        elif opcode == pickle.GLOBAL:
            # the argument is two lines; if the end of one is missing, size is negative, and refused below
            first = data.find(b"\n", at)
            size = data.find(b"\n", first + 1) + 1 - at if first >= 0 else -1
        if not opcode or not 0 <= size <= len(data) - at:
            raise IndexError(at)
        yield opcode, data[at : at + size]
        at += size


class _Machine:
    """The stack and the memory while the opcodes of a pickle are followed; both hold one record per value."""

    def __init__(self, file: str, trusted: Collection[str]) -> None:
        self.file = file
        self.stack: list[_Value] = []
        self.storages: list[StorageId] = []
        self._trusted = trusted
        self._memory: dict[int, _Value] = {}

    def step(self, opcode: bytes, argument: bytes) -> None:
        """Apply one opcode to the stack and the memory."""
        if opcode in _SCALARS:
            kind = _SCALARS[opcode]
            self.stack.append(_Value(kind, argument=argument) if argument else _PLAIN[kind])
        elif opcode in _EMPTY:
            kind = _EMPTY[opcode]
            self.stack.append(_PLAIN.get(kind) or _Value(kind))
        elif opcode in _TUPLES:
            self._wrap(_TUPLE, _TUPLES[opcode])
        elif opcode in (pickle.BINPUT, pickle.LONG_BINPUT):
            self._memory[int.from_bytes(argument, "little")] = self.stack[-1]
        elif opcode in (pickle.BINGET, pickle.LONG_BINGET):
            self.stack.append(self._memory[int.from_bytes(argument, "little")])
        elif opcode == pickle.GLOBAL:
            self._check_global(argument)
            self.stack.append(_Value(_GLOBAL, argument=argument))
        elif opcode != pickle.PROTO:
            self._compose(opcode)

    def _compose(self, opcode: bytes) -> None:
        if opcode == pickle.MARK:
            self.stack.append(_PLAIN[_MARK])
        elif opcode == pickle.TUPLE:
            parts = self._above_mark()
            self.stack.append(_Value(_TUPLE, tuple(parts), size=0))
        elif opcode in (pickle.REDUCE, pickle.NEWOBJ):
            self._wrap("object", 2)
        elif opcode == pickle.BINPERSID:
            # the id is checked, because torch hashes a part of it as a key
            if any(part.kind == _TUPLE or part.kind in _EMPTY.values() for part in self.stack[-1].parts):
                raise _refused(self.file, "names a storage by more than words and numbers")
            self._name_storage(self.stack[-1].parts)
            self._wrap("storage", 1)
        elif opcode in (pickle.APPEND, pickle.BUILD):
            parts = self._pop(1)
            self.stack[-1].extend(parts)
        elif opcode == pickle.APPENDS:
            parts = self._above_mark()
            self.stack[-1].extend(parts)
        elif opcode == pickle.SETITEM:
            self._set(self._pop(2))
        elif opcode == pickle.SETITEMS:
            self._set(self._above_mark())
        else:
            raise FormatError(
                "FMT-153", f"{self.file} has the opcode {opcode!r} in its pickle, which no file of tensors needs"
            )

    def _name_storage(self, parts: Sequence[_Value]) -> None:
        """Record the storage that the parts of an id name: a word, a class, a key, a device and a number of elements.

        Ids of another form are left to torch, which refuses them.
        """
        if [part.kind for part in parts] == [_TEXT, _GLOBAL, _TEXT, _TEXT, _NUMBER]:
            _, kind, key, _, numel = (part.argument for part in parts)
            # a number without an argument is None or a boolean; a negative one becomes too large to be true
            size = int.from_bytes(numel or b"\xff" * 8, "little")
            self.storages.append(StorageId(kind.decode().split("\n")[1], key.decode(), size))

    def _pop(self, count: int) -> list[_Value]:
        if len(self.stack) < count:
            raise IndexError(count)
        parts = self.stack[-count:]
        del self.stack[-count:]
        return parts

    def _above_mark(self) -> list[_Value]:
        at = next(i for i in range(len(self.stack) - 1, -2, -1) if i < 0 or self.stack[i].kind == _MARK)
        if at < 0:
            raise IndexError(at)
        parts = self.stack[at + 1 :]
        del self.stack[at:]
        return parts

    def _wrap(self, kind: str, count: int) -> None:
        parts = self._pop(count)
        self.stack.append(_Value(kind, tuple(parts), size=0))

    def _set(self, pairs: list[_Value]) -> None:
        # keys must be plain, because they are hashed, and shown in messages
        for key in pairs[::2]:
            if key.kind not in (_TEXT, _NUMBER):
                raise FormatError("FMT-153", f"{self.file} has a key that is a {key.kind}, expected names of tensors")
        self.stack[-1].extend(pairs)

    def _check_global(self, argument: bytes) -> None:
        called = ".".join(argument.decode("utf-8").split("\n")[:2])
        # names in torch pass here, because torch's restricted loader has a list of those that it allows
        if called not in self._trusted and not called.startswith("torch."):
            raise FormatError(
                "FMT-153",
                f"{self.file} calls {called!r:.100}, which no file of tensors needs and which could run any program; "
                f"nothing of it was loaded. If you made the file, save module.state_dict() alone",
            )


def _check_spread(root: _Value, steps: int, file: str) -> None:
    """Verify that values nest at most MAX_DEPTH deep, have no cycle, and stay within SPREAD."""
    waiting = [(root, iter(root.parts))]
    inside = {id(root)}
    while waiting:
        value, parts = waiting[-1]
        part = next((p for p in parts if not p.size), None)
        if part is None:
            waiting.pop()
            inside.discard(id(value))
            size, depth = 1 + sum(p.size for p in value.parts), 1 + max((p.depth for p in value.parts), default=0)
            if size > SPREAD * steps:
                raise _refused(file, "repeats values within each other without bound")
            value.size, value.depth = size, depth
        else:
            if id(part) in inside:
                raise _refused(file, "has a value that holds itself")
            inside.add(id(part))
            waiting.append((part, iter(part.parts)))
            depth = len(waiting)
        if depth > MAX_DEPTH:
            raise _refused(file, f"nests values more than {MAX_DEPTH} levels deep")


def _refused(file: str, does: str) -> FormatError:
    return FormatError("FMT-153", f"{file} {does}, which no file of tensors does; save module.state_dict() alone")
