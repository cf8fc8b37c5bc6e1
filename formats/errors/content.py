"""Errors of content: what a checkpoint may hold (12.1), and of the encodings that hold it (12.4)."""

from formats.errors.base import FormatError


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


class BadScale(FormatError):
    """A scale that names no stored tensor, or that has no proper role."""

    clause = "FMT-016"


class BadMask(FormatError):
    """A mask stored dense, which would cost a file nothing and a reader memory."""

    clause = "FMT-017"


class BadPattern(FormatError):
    """A pattern that the shape or the support size cannot have, or that the support does not keep."""

    clause = "FMT-051"


class RankOutOfRange(FormatError):
    """A rank past the last arrangement of a group."""

    clause = "FMT-053"


class TooManyRows(FormatError):
    """A tensor coded by gaps whose rows would cost a file nothing and a reader memory."""

    clause = "FMT-056"


class WrongGapLength(FormatError):
    """A section of gaps too short or too long for its support."""

    clause = "FMT-057"


class WrongGapCount(FormatError):
    """Another number of gaps than values, or bytes after the last gap."""

    clause = "FMT-058"


class PositionOutOfRange(FormatError):
    """A gap that leads past the last position of the shape."""

    clause = "FMT-059"


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


class SpareBits(FormatError):
    """A bit set past the last value of a packed row or section."""

    clause = "FMT-072"


class GapNotMinimal(FormatError):
    """A varint gap spelled with more bytes than it needs, or with more than 8."""

    clause = "FMT-073"
