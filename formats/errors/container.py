"""Errors of the bytes of one file (12.2) and of its manifest (12.3)."""

from formats.errors.base import FormatError


class FileTooShort(FormatError):
    """A file without room for its header length."""

    clause = "FMT-020"


class HeaderTooLong(FormatError):
    """A header length above the limit, or past the end of the file."""

    clause = "FMT-021"


class HeaderMisaligned(FormatError):
    """A header that does not end at a power of two."""

    clause = "FMT-022"


class HeaderPadding(FormatError):
    """A header that does not begin with a brace, or that ends in more spaces than needed."""

    clause = "FMT-023"


class NotJson(FormatError):
    """Bytes that are not JSON text in UTF-8."""

    clause = "FMT-024"


class DuplicateKey(FormatError):
    """A key that occurs twice in one JSON object."""

    clause = "FMT-025"


class NotAnInteger(FormatError):
    """A JSON number that is a fraction, an exponent, or beyond 2^53 - 1 in size."""

    clause = "FMT-026"


class TooDeep(FormatError):
    """JSON nested more than 16 levels."""

    clause = "FMT-027"


class NotCanonicalJson(FormatError):
    """JSON that says the right thing in other bytes than the canonical ones."""

    clause = "FMT-028"


class BadMetadata(FormatError):
    """A ``__metadata__`` object with other entries than the three of the format."""

    clause = "FMT-029"


class BadSectionEntry(FormatError):
    """A section entry of the header with other keys or types than the three of safetensors."""

    clause = "FMT-030"


class MissingSection(FormatError):
    """A section that the manifest implies and the header lacks."""

    clause = "FMT-031"


class UnownedSection(FormatError):
    """A section in the header that no tensor of the manifest owns."""

    clause = "FMT-032"


class WrongSection(FormatError):
    """A section whose dtype or shape is not the one that its tensor implies."""

    clause = "FMT-033"


class WrongOffsets(FormatError):
    """A section that does not stand where the layout puts it."""

    clause = "FMT-034"


class WrongFileSize(FormatError):
    """A file that does not end where its last section ends."""

    clause = "FMT-035"


class PadNotZero(FormatError):
    """A pad with a byte other than zero."""

    clause = "FMT-036"


class UnknownKey(FormatError):
    """A closed object with a key too many or too few."""

    clause = "FMT-040"


class WrongType(FormatError):
    """A value of another JSON type than its key asks for."""

    clause = "FMT-041"


class UnsupportedVersion(FormatError):
    """A file of a major version that this reader does not know."""

    clause = "FMT-042"


class UnknownFeature(FormatError):
    """A file that requires a feature that this reader does not have."""

    clause = "FMT-043"


class BadFeatureList(FormatError):
    """A feature list that is unsorted, repeats a name or holds one that is no feature name."""

    clause = "FMT-044"


class UnknownEncoding(FormatError):
    """A tensor in an encoding that this reader does not know."""

    clause = "FMT-045"


class WrongCount(FormatError):
    """A support size that the shape or the encoding does not allow."""

    clause = "FMT-046"


class BadDigest(FormatError):
    """A digest that is not 64 lower-case hexadecimal digits."""

    clause = "FMT-047"


class NotWhole(FormatError):
    """One part of several, opened as if it were a checkpoint."""

    clause = "FMT-048"


class WrongSectionSize(FormatError):
    """A section whose size in the manifest is not the one that its tensor implies."""

    clause = "FMT-049"


class WrongFeatures(FormatError):
    """A list of required features that are not those that the file uses."""

    clause = "FMT-050"


class BadCompressedSize(FormatError):
    """A compressed section that is not smaller than its content, or more than 1,024 times smaller."""

    clause = "FMT-141"


class BadFrame(FormatError):
    """A compressed section that is not one frame of the size that the manifest states."""

    clause = "FMT-142"
