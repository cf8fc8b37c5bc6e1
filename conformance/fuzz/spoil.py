"""Mutations outside the tensors: the rest of the manifest, the header, and bytes of the whole file."""

from collections.abc import Callable
from random import Random
from typing import Any

from conformance.fuzz import parts as taking
from conformance.fuzz.parts import Header, Parts
from conformance.fuzz.strings import INTEGERS, a_string

_DIGESTS = ("0" * 64, "1" * 64, None)


def described(chance: Random, parts: Parts) -> None:
    """Change ties, scales, features, companions, version, kind or delta in a manifest (12.1, 12.3, 12.10)."""
    m, kind = parts.manifest, chance.randrange(10)
    names = [*parts.entries, "nothing", "w", *m["tied"], "a\n", ""]
    one, two = chance.choice(names), chance.choice(names)
    if kind == 0:
        m["tied"][one] = two
    elif kind == 1:
        m["scales"][one] = (
            {} if chance.random() < 0.2 else {chance.choice(("scale", "zero_point", "A", "", "a" * 65)): two}
        )
    elif kind == 2:
        key = chance.choice(("requires", "optional"))
        m[key] = chance.choice((["delta"], ["zstd"], ["a", "b"], ["b", "a"], ["a", "a"], ["A"], [], ["delta", "zstd"]))
    elif kind == 3:
        names = ["a.json", "A.JSON", "model.sparse.x", "a.bin", ".a", "a/b", "x" * 256, "README.md", "MODEL.SPARSE"]
        size = chance.choice((0, 1, 50_000_000, 50_000_001, -1, True))
        m["files"] = {n: {"bytes": size, "sha256": "a" * 64} for n in chance.sample(names, chance.randint(1, 2))}
    elif kind == 4:
        m["spec"] = chance.choice(("1.1", "1.9999", "1.10000", "1.01", "2.0", "1.", "1.0\n", "\u0661.0", "1.\u0661", 1))
    elif kind == 5:
        m["kind"] = chance.choice(("delta", "model", "Model", "a" * 65, "a\n", "-", "training-state"))
    elif kind == 6:
        m["part"] = chance.choice((1, 2, 99999, -1, True, "0", 2**53))
    elif kind == 7:
        m["attributes"] = chance.choice(
            ([], {"a": _nested(chance.randint(12, 17))}, {"\ud800": 0}, {"a": 2**53}, {"": None})
        )
    else:
        _delta(chance, parts, one)


def _nested(levels: int) -> Any:
    value: Any = []
    for i in range(levels):
        value = [value] if i % 2 else {"": value}
    return value


def _delta(chance: Random, parts: Parts, name: str) -> None:
    """Change the description of a delta, or give one to a model (FMT-130 to FMT-132)."""
    m = parts.manifest
    described = {"base_sha256": "1" * 64, "scales": {}, "target_sha256": "2" * 64, "tensors": {}, "tied": {}}
    own = m.setdefault("delta", described)
    if chance.random() < 0.5:
        m |= {"kind": "delta", "requires": ["delta"]}
    kind = chance.randrange(7)
    if kind == 0:
        own["tensors"][name] = {"base": chance.choice(_DIGESTS), "target": chance.choice(_DIGESTS)}
    elif kind == 1 and own["tensors"]:
        listed = own["tensors"][chance.choice(sorted(own["tensors"]))]
        listed[chance.choice(("base", "target"))] = chance.choice((*_DIGESTS, *listed.values(), "", 0))
    elif kind == 2 and own["tensors"]:
        own["tensors"].pop(chance.choice(sorted(own["tensors"])))
    elif kind == 3:
        own["tied"][name] = chance.choice((name, "other", "", "a#", "x" * 513))
    elif kind == 4:
        own["scales"][name] = chance.choice(({}, {"scale": name}, {"scale": "v"}, {"Scale": "v"}, {"scale": "a\n"}))
    elif kind == 5:
        own[chance.choice(sorted(own))] = chance.choice(("0" * 63, {}, [], None, "A" * 64))
    elif parts.entries:
        # the tensor is renamed to another operation
        old = chance.choice(sorted(parts.entries))
        new = f"{chance.choice(('add', 'remove', 'replace', 'whole', 'xor'))}:{old.partition(':')[2]}"
        m["tensors"][new] = m["tensors"].pop(old)
        for at, section in enumerate(parts.sections):
            owner, _, role = section.name.rpartition("#")
            if owner == old:
                parts.sections[at] = taking.copied(section, name=f"{new}#{role}")


def container(chance: Random, parts: Parts) -> None:
    """Change pads, bytes after the last pad, or metadata or an entry of the header (12.2)."""
    kind = chance.randrange(12)
    if kind == 0:
        parts.pad = chance.choice((b"\1", b"\x80", b" "))
    elif kind == 1:
        parts.tail = chance.choice((b"\0", bytes(64), bytes(8)))
    else:
        parts.of_header.append(_kept(lambda header: (_metadata if kind < 5 else _entry)(chance, header)))


def _metadata(chance: Random, header: Header) -> None:
    """Change `__metadata__` (FMT-029, FMT-093)."""
    about, kind = header["__metadata__"], chance.randrange(4)
    key = chance.choice(sorted(about))
    if kind == 0:
        about[key] = chance.choice(("np", "0" * 64, "", about[key] + " ", None, 0, {}, "{}", "[]", "null", "0"))
    elif kind == 1:
        about[chance.choice(("note", ""))] = ""
    elif kind == 2:
        about.pop(key)
    else:
        header["__metadata__"] = chance.choice((None, [], "", {}, {"format": "pt"}))


def _entry(chance: Random, header: Header) -> None:
    """Change the entry of a section or pad (FMT-030 to FMT-034)."""
    name, kind = chance.choice([name for name in header if name != "__metadata__"]), chance.randrange(7)
    entry = header[name]
    if kind == 0:
        at = chance.randrange(2)
        entry["data_offsets"][at] = chance.choice((entry["data_offsets"][at] + 1, *INTEGERS))
    elif kind == 1:
        entry["data_offsets"] = [x + chance.choice((1, 64, -64)) for x in entry["data_offsets"]]
    elif kind == 2:
        entry[chance.choice(("note", "shape", "dtype"))] = chance.choice((0, "U8", [64], [], "F16", [True], [-1], None))
    elif kind == 3:
        entry.pop(chance.choice(sorted(entry)))
    elif kind == 4:
        header.pop(name)
    elif kind == 5:
        header[a_string(chance, name)] = entry if chance.random() < 0.5 else header.pop(name)
    else:
        entry["shape"] = chance.choice(([1, *entry["shape"]], [*entry["shape"], 1], entry["shape"][::-1]))


def _kept(change: Callable[[Header], None]) -> Callable[[Header], None]:
    """Return a mutation that does nothing if the header lacks the changed member."""

    def run(header: Header) -> None:
        try:
            change(header)
        except (LookupError, TypeError, AttributeError):
            return

    return run


def bytes_of(chance: Random, raw: bytes) -> bytes:
    """Return bytes with some of them changed, cut off or added; digests are not recomputed."""
    kind, at = chance.randrange(4), chance.randint(0, len(raw))
    if kind == 0:
        return raw[:at]
    if kind == 1:
        return raw + chance.randbytes(chance.choice((1, 8, 64)))
    if kind == 2:
        return raw[:at] + chance.randbytes(chance.choice((1, 2, 8))) + raw[at + 1 :]
    changed = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 8)) if raw else 0):
        changed[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return bytes(changed)
