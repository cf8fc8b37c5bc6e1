"""Errors of writing, of digests and of folders (12.5 to 12.8)."""

from formats.errors.base import FormatError


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


class ExpansionTooLarge(FormatError):
    """A tensor that would take more memory than the caller allows."""

    clause = "FMT-098"


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


class NotRegular(FormatError):
    """A pipe, a device or another thing that is no regular file where a file is read."""

    clause = "FMT-165"
