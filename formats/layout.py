"""Where everything stands in a file: the manifest implies sections, pads and offsets, and the header repeats them."""

from collections.abc import Iterator, Mapping

from formats import compress, encoding
from formats.container import Section, pad_length, section_bytes
from formats.encodings.code import Plan
from formats.errors import (
    MissingSection,
    UnownedSection,
    WrongFileSize,
    WrongOffsets,
    WrongSection,
    WrongSectionSize,
)
from formats.header import Entry


def section_name(tensor: str, role: str) -> str:
    """Return the name of a section in the header (FMT-031)."""
    return f"{tensor}#{role}"


def plan(entry: Entry, name: str) -> Plan:
    """Return the sections of a tensor as they stand in the file, after comparing them with its entry.

    Raises:
        FormatError: FMT-031, FMT-049, FMT-141, or the rule of the encoding that the entry breaks.
    """
    implied = encoding.plan(entry, name)
    # FMT-031
    if set(entry.sections) != set(implied):
        raise MissingSection(
            f"tensor {name!r} lists the sections {sorted(entry.sections)}, "
            f"encoding {entry.encoding} has {sorted(implied)}"
        )
    for role, (dtype, shape) in implied.items():
        stored = entry.sections[role]
        # FMT-049
        if stored.raw != section_bytes(dtype, shape):
            raise WrongSectionSize(
                f"section {section_name(name, role)!r} has {stored.raw} bytes by its manifest, "
                f"{dtype} {list(shape)} takes {section_bytes(dtype, shape)}"
            )
        if stored.raw_bytes is not None:
            compress.check_size(stored.nbytes, stored.raw_bytes, section_name(name, role))
            implied[role] = ("U8", (stored.nbytes,))
    return implied


def layout(tensors: Mapping[str, Entry]) -> Iterator[Section]:
    """Yield sections and pads in file order (FMT-034).

    Raises:
        FormatError: as `plan`.
    """
    begin = 0
    for name in sorted(tensors):
        for role, (dtype, shape) in sorted(plan(tensors[name], name).items()):
            end = begin + section_bytes(dtype, shape)
            yield Section(section_name(name, role), dtype, shape, begin, end)
            begin = end + pad_length(end)
            if begin != end:
                yield Section(section_name(name, role) + "#pad", "U8", (begin - end,), end, begin)


def compare(
    tensors: Mapping[str, Entry], found: Mapping[str, Section], data_bytes: int, name: str
) -> dict[str, Section]:
    """Return the sections by name after comparing a header with the one layout that its manifest allows.

    Raises:
        FormatError: as `plan`, and FMT-031 to FMT-035.
    """
    expected = {section.name: section for section in layout(tensors)}
    for section in expected.values():
        other = found.get(section.name)
        # FMT-031
        if other is None:
            raise MissingSection(f"{name} has no section {section.name!r}")
        # FMT-033
        if (other.dtype, other.shape) != (section.dtype, section.shape):
            raise WrongSection(
                f"section {section.name!r} is {other.dtype} {list(other.shape)}, "
                f"expected {section.dtype} {list(section.shape)}"
            )
        # FMT-034
        if (other.begin, other.end) != (section.begin, section.end):
            raise WrongOffsets(
                f"section {section.name!r} stands at {other.begin} to {other.end}, "
                f"expected {section.begin} to {section.end}"
            )
    # FMT-032
    unowned = sorted(set(found) - set(expected))
    if unowned:
        raise UnownedSection(f"{name} has the section {unowned[0]!r}, which belongs to no tensor")
    # FMT-035
    end = max((section.end for section in expected.values()), default=0)
    if end != data_bytes:
        raise WrongFileSize(f"{name} has {data_bytes} bytes of sections, expected {end}")
    return expected
