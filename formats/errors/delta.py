"""Errors of deltas (12.11)."""

from formats.errors.base import FormatError


class NoDelta(FormatError):
    """A delta without description, or with ties and scales of its own; or another kind with a description."""

    clause = "FMT-130"


class BadDelta(FormatError):
    """A description of a delta that says what cannot be: nothing changed, or a model where a delta should be."""

    clause = "FMT-131"


class BadDeltaName(FormatError):
    """A name that is not an operation and the name of a tensor that changes, or operations that do not go together."""

    clause = "FMT-132"


class BadChange(FormatError):
    """A change that does not fit the tensor that it is applied to."""

    clause = "FMT-133"


class InexactChange(FormatError):
    """A difference that addition does not carry to the target bit for bit."""

    clause = "FMT-135"


class WrongBase(FormatError):
    """A base that is not the one that the delta was made for."""

    clause = "FMT-137"


class WrongResult(FormatError):
    """A result that is not the one that the delta promises."""

    clause = "FMT-138"


class BrokenChain(FormatError):
    """Deltas in a row of which one does not start where the one before it ends."""

    clause = "FMT-139"
