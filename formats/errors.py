"""Errors of the file format: one class per broken rule, each message led by the clause it breaks."""

from typing import ClassVar


class FormatError(Exception):
    """A file, folder or record that breaks a clause of the format; nothing of it is handed out (FMT-097).

    Attributes:
        clause: the clause id, for example ``"FMT-064"``.
    """

    clause: ClassVar[str] = "FMT-000"

    def __str__(self) -> str:
        return f"{self.clause}: {super().__str__()}"


# Semantics: what a checkpoint may hold


class UnknownDtype(FormatError):
    """A dtype outside the table."""

    clause = "FMT-006"


class BadShape(FormatError):
    """A rank, dimension or product of dimensions beyond the limits."""

    clause = "FMT-007"


class BadSparseShape(FormatError):
    """A sparse tensor that is not a matrix of fewer than 2^31 rows and columns."""

    clause = "FMT-008"


class BadTensorName(FormatError):
    """A tensor name that is empty, too long or holds a forbidden character."""

    clause = "FMT-009"


class BadTie(FormatError):
    """A tied name that is itself stored, or that stands for a tensor that is not."""

    clause = "FMT-010"


class BadAttribute(FormatError):
    """An attribute that JSON without fractions cannot carry."""

    clause = "FMT-011"


class BadKind(FormatError):
    """A kind that is not a short lower-case word."""

    clause = "FMT-012"


class BadFileName(FormatError):
    """A companion name that is not a plain file name, or that a loader would take for weights."""

    clause = "FMT-013"


class FileTooLarge(FormatError):
    """A companion of more than 50,000,000 bytes."""

    clause = "FMT-014"


class BadRecord(FormatError):
    """A tensor given to the writer whose arrays have the wrong rank, length or dtype."""

    clause = "FMT-015"


# Container: the bytes of one file


class FileTooShort(FormatError):
    """A file without room for its header length."""

    clause = "FMT-020"


class HeaderTooLong(FormatError):
    """A header length above the limit, or past the end of the file."""

    clause = "FMT-021"


class HeaderMisaligned(FormatError):
    """A header after which the sections would not start at a multiple of 64."""

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


# Manifest


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


# Encodings


class TailBits(FormatError):
    """A bit set past the last column of a bitmask row."""

    clause = "FMT-062"


class WrongPopcount(FormatError):
    """A bitmask with another number of set bits than values."""

    clause = "FMT-063"


class NoColumns(FormatError):
    """A bitmask of a matrix without columns."""

    clause = "FMT-064"


class RowPointerEnds(FormatError):
    """Row pointers that do not run from 0 to the support size."""

    clause = "FMT-066"


class RowPointerOrder(FormatError):
    """A row pointer smaller than the one before it."""

    clause = "FMT-067"


class ColumnOutOfRange(FormatError):
    """A column index that the matrix does not have."""

    clause = "FMT-068"


class ColumnOrder(FormatError):
    """A column index not above the one before it in the same row."""

    clause = "FMT-069"


class NotBoolean(FormatError):
    """A BOOL value stored as another byte than 0 or 1."""

    clause = "FMT-070"


# Canonical form and digests


class SupportWouldBeLost(FormatError):
    """A sparse tensor asked to be written dense although positions are absent."""

    clause = "FMT-082"


class UnknownOption(FormatError):
    """A writer option that does not exist."""

    clause = "FMT-084"


class SectionDigestMismatch(FormatError):
    """A section whose bytes are not those that were written."""

    clause = "FMT-090"


class ContentDigestMismatch(FormatError):
    """A tensor whose content is not the one that its digest names."""

    clause = "FMT-091"


class ManifestDigestMismatch(FormatError):
    """A manifest that is not the one that was written."""

    clause = "FMT-093"


class FileDigestMismatch(FormatError):
    """A companion whose bytes are not those that were written."""

    clause = "FMT-094"


# Folders


class BadIndex(FormatError):
    """An index that is not the one that its parts imply."""

    clause = "FMT-101"


class MissingFile(FormatError):
    """A folder that lacks a file it names, or holds no checkpoint."""

    clause = "FMT-102"


class StrayFile(FormatError):
    """A checkpoint file in the folder that the checkpoint does not name."""

    clause = "FMT-103"


class BadPart(FormatError):
    """A part out of place: another number, kind, version, tensor range or digest than the index tells."""

    clause = "FMT-104"


class DestinationExists(FormatError):
    """A destination that is already there."""

    clause = "FMT-110"


class StockName(FormatError):
    """A file name under which a loader of dense models would open a sparse file."""

    clause = "FMT-112"


# Conversion


class ForeignFolder(FormatError):
    """A Hugging Face folder that is incomplete or contradicts itself."""

    clause = "FMT-120"


class ForeignFile(FormatError):
    """A safetensors file that is truncated, malformed or holds a dtype outside the table."""

    clause = "FMT-121"


class CastOverflow(FormatError):
    """A cast that would turn a finite value into infinity or NaN."""

    clause = "FMT-126"
