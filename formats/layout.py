"""Computes the sections, pads and offsets of a file from its manifest, and compares a header with them."""

from collections.abc import Iterator, Mapping

from formats import compress, encoding
from formats.container import Section, pad_length, section_bytes
from formats.encodings.code import Plan
from formats.errors import FormatError
from formats.header import Entry


def section_name(tensor: str, role: str) -> str:
    """Return the name of a section in the header (FMT-031)."""
    return f"{tensor}#{role}"


def plan(entry: Entry, name: str) -> Plan:
    """Return the sections of a tensor as the file stores them, compressed ones as U8, after checking its entry.

    Raises:
        FormatError: FMT-031, FMT-049, FMT-141, or the rule of the encoding that the entry breaks.
    """
    implied = encoding.plan(entry, name)
    if set(entry.sections) != set(implied):
        raise FormatError(
            "FMT-031",
            f"tensor {name!r} lists the sections {sorted(entry.sections)}, "
            f"encoding {entry.encoding} has {sorted(implied)}",
        )
    for role, (dtype, shape) in implied.items():
        stored = entry.sections[role]
        if stored.raw != section_bytes(dtype, shape):
            raise FormatError(
                "FMT-049",
                f"section {section_name(name, role)!r} has {stored.raw} bytes by its manifest, "
                f"{dtype} {list(shape)} takes {section_bytes(dtype, shape)}",
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
    tensors: Mapping[str, Entry], actual_sections: Mapping[str, Section], data_bytes: int, name: str
) -> dict[str, Section]:
    """Return the sections by name after comparing a header with the one layout that its manifest allows.

    Raises:
        FormatError: as `plan`, and FMT-031 to FMT-035.
    """
    expected = {section.name: section for section in layout(tensors)}
    for section in expected.values():
        actual = actual_sections.get(section.name)
        if actual is None:
            raise FormatError("FMT-031", f"{name} has no section {section.name!r}")
        if (actual.dtype, actual.shape) != (section.dtype, section.shape):
            raise FormatError(
                "FMT-033",
                f"section {section.name!r} is {actual.dtype} {list(actual.shape)}, "
                f"expected {section.dtype} {list(section.shape)}",
            )
        if (actual.begin, actual.end) != (section.begin, section.end):
            raise FormatError(
                "FMT-034",
                f"section {section.name!r} stands at {actual.begin} to {actual.end}, "
                f"expected {section.begin} to {section.end}",
            )
    unowned = sorted(set(actual_sections) - set(expected))
    if unowned:
        raise FormatError("FMT-032", f"{name} has the section {unowned[0]!r}, which belongs to no tensor")
    end = max((section.end for section in expected.values()), default=0)
    if end != data_bytes:
        advice = "; the file is cut, copy it again" if data_bytes < end else ""
        raise FormatError("FMT-035", f"{name} has {data_bytes} bytes of sections, expected {end}{advice}")
    return expected
