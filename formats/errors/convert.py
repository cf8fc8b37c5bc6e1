"""Errors of conversion (12.9)."""

from formats.errors.base import FormatError


class ForeignFolder(FormatError):
    """A Hugging Face folder that is incomplete or contradicts itself."""

    clause = "FMT-120"


class ForeignFile(FormatError):
    """A safetensors file that is truncated, malformed or holds a dtype outside the table."""

    clause = "FMT-121"


class CastOverflow(FormatError):
    """A cast that would turn a finite value into infinity or NaN."""

    clause = "FMT-126"


class ForeignSparse(FormatError):
    """A compressed-tensors checkpoint that is incomplete, contradicts itself or holds a format that is not read."""

    clause = "FMT-150"


class ForeignAdapter(FormatError):
    """A SpIEL, SHiRA or TRL file that is incomplete, or whose indices do not fit the base."""

    clause = "FMT-151"


class ForeignLora(FormatError):
    """A LoRA adapter that is incomplete, does not fit the base or is of a kind that is no plain product."""

    clause = "FMT-152"


class ForeignTorch(FormatError):
    """A file of torch.save or SciPy that holds more than tensors, or a sparse tensor whose indices are wrong."""

    clause = "FMT-153"


class CannotHold(FormatError):
    """A tensor that the target of a conversion cannot hold."""

    clause = "FMT-154"


class ForeignGguf(FormatError):
    """A GGUF file that is malformed, or holds quantised tensors that nobody asked to expand."""

    clause = "FMT-155"


class ModuleMismatch(FormatError):
    """A torch module and a checkpoint that do not have the same tensors."""

    clause = "FMT-156"
