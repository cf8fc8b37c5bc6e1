"""The arguments that all runs take: a model, as a folder or loaded, and a text, as a file or as tokens."""

import logging
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast

import numpy as np

from seft_ref.arrays.library import Array
from seft_ref.files.model import Model, load_model, refuse_delta, stop_tokens
from seft_ref.kernels import KernelSet
from seft_ref.text.examples import Data, Examples, Longer, examples_of
from seft_ref.text.tokens import read_tokens

ModelSource = str | Path | Model
"""A folder, a sparse checkpoint or one of Hugging Face, or a model that `load_model` has returned."""
TextSource = str | Path | Sequence[int]
"""A UTF-8 file, read with the tokenizer of the model's folder (TRN-016), or its tokens."""
DataSource = TextSource | Examples
"""A text, or examples that `read_examples` has returned."""

LOGGER = logging.getLogger("seft_ref")
"""Every call that takes long reports each step here, at level INFO."""


def kernels_or_cpu(kernels: KernelSet | None) -> KernelSet:
    """Return the kernel set, or `cpu`, which takes NumPy arrays, for None."""
    if kernels is not None:
        return kernels
    from seft_ref.kernels import cpu  # imported late, because it loads numba

    return cpu


def has_folder(model: ModelSource) -> bool:
    """Return whether a model has a folder; a model that was made in memory has none."""
    return not isinstance(model, Model) or model.folder is not None


def folder_of(model: ModelSource) -> Path:
    """Return the folder of a model.

    Raises:
        ValueError: for a model that was made in memory.
    """
    folder = model.folder if isinstance(model, Model) else Path(model)
    if folder is None:
        raise ValueError("the model has no folder; give tokens instead of a text, and no folder to write")
    return folder


def model_of(
    model: ModelSource,
    kernels: KernelSet,
    *,
    dtype: str | None = None,
    compact: bool = False,
    exact: bool = False,
    like: Array | None = None,
    limit: int | None = None,
) -> Model:
    """Return a model, loaded if it is a folder; the options are those of `load_model`.

    Raises:
        ValueError: for options of loading beside a model that is loaded, and for a model that a run has spent; else as
            `load_model`.
    """
    if not isinstance(model, Model):
        return load_model(model, kernels, dtype, compact=compact, exact=exact, like=like, limit=limit)
    if model.spent:
        raise ValueError("a run was started from this model and reuses its memory, so it is spent; load it again")
    options: dict[str, Any] = {"dtype": dtype, "compact": compact, "exact": exact, "like": like, "limit": limit}
    for name, value in options.items():
        if value is not None and value is not False:
            raise ValueError(f"{name} is an option of loading, and the model is loaded; leave it out")
    return model


def read_examples(
    files: str | Path | Sequence[str | Path],
    model: str | Path,
    length: int,
    *,
    longer: Longer = "refuse",
    packed: bool = False,
) -> Examples:
    """Return the training examples of JSON Lines files, read with the tokenizer of a model (TRN-020).

    model   the folder with tokenizer, chat template and the token that ends a completion (GEN-008)
    length  tokens of a row, the same as for `finetune`
    longer  what to do with an example longer than a row: refuse, drop or cut; packed examples are divided among rows
    packed  whether rows are cut from the examples laid end to end (TRN-021)
    Raises  what `examples_of` and `stop_tokens` raise
    """
    refuse_delta(model)
    ends = stop_tokens(model)
    listed = [files] if isinstance(files, str | Path) else files
    return examples_of(listed, model, length, end=ends[0] if ends else None, longer=longer, packed=packed)


def data_of(data: DataSource, model: ModelSource) -> Data:
    """Return the training data of a run: examples as they are, a text as its tokens (TRN-016).

    Raises:
        CheckpointError: CKP-002 for a delta in place of the model whose tokenizer is to read the text.
    """
    return data if isinstance(data, Examples) else tokens_of(data, model)


def tokens_of(text: TextSource, model: ModelSource) -> Sequence[int]:
    """Return the tokens of a text (TRN-016).

    Raises:
        CheckpointError: CKP-002 for a delta in place of the model whose tokenizer is to read the text.
        ValueError: for tokens that are not one sequence of whole numbers in the memory of the host.
    """
    if not isinstance(text, str | Path):
        _require_tokens(text)
        return text
    folder = folder_of(model)
    refuse_delta(folder)
    return read_tokens(Path(text), folder)


def whole_numbers(**numbers: object) -> list[int]:
    """Return arguments as numbers of Python; those of NumPy are taken, and JSON does not hold them.

    Raises:
        ValueError: with the name of an argument that is no whole number.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Integral):
            raise ValueError(f"{name} is {number!r}, must be a whole number")
    return [int(cast(Integral, number)) for number in numbers.values()]


def real_numbers(**numbers: object) -> list[float]:
    """Return arguments as numbers of Python, as `whole_numbers` does; whole ones stay whole.

    Raises:
        ValueError: with the name of an argument that is no number.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Real):
            raise ValueError(f"{name} is {number!r}, must be a number")
    return [int(number) if isinstance(number, Integral) else float(cast(Real, number)) for number in numbers.values()]


def _require_tokens(tokens: object) -> None:
    """Refuse what is not one sequence of whole numbers, in one line here instead of later inside a loop."""
    if isinstance(tokens, bytes | bytearray):
        return  # a sequence of numbers to Python, and a text to NumPy
    advice = "give a file, or one sequence of whole numbers"
    if not isinstance(tokens, Sequence) and not hasattr(tokens, "__array__"):
        raise ValueError(f"tokens are a {type(tokens).__name__}; {advice}")
    try:
        numbers = np.asarray(tokens)
    except (TypeError, ValueError) as error:  # lists of different lengths, an array of a GPU
        raise ValueError(f"tokens are no array: {error}; {advice}") from None
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(f"tokens are an array of shape {numbers.shape} and dtype {numbers.dtype}; {advice}")
