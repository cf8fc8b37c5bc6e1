"""Measures the perplexity of a model on a text, in one call."""

from collections.abc import Callable

from seft_ref.arrays.library import Array
from seft_ref.kernels import KernelSet
from seft_ref.runs.source import LOGGER, ModelSource, TextSource, kernels_or_cpu, model_of, tokens_of, whole_numbers
from seft_ref.text.evaluate import Evaluation, evaluate_windows
from seft_ref.text.tokens import evaluation_starts


def evaluate(
    model: ModelSource,
    text: TextSource,
    *,
    length: int = 128,
    windows: int | None = 40,
    progress: Callable[[int, int], None] = lambda done, total: None,
    kernels: KernelSet | None = None,
    dtype: str | None = None,
    compact: bool = False,
    like: Array | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Return the perplexity of a model over windows of a text (EVL-001).

    model     a folder, sparse or of Hugging Face, or a loaded model
    text      the text to predict: a file, or tokens
    windows   how many are spread evenly over the text; None for windows side by side over all of it, of which a rest
              of fewer than `length` tokens is left out
    progress  called with (windows done, windows in all), first when the model is loaded
    kernels   a kernel set; None for `cpu`, which takes NumPy arrays
    dtype, compact, like, limit    as `load_model`
    Units     nats a target
    Raises    ValueError for numbers that are not whole; what `read_tokens`, `load_model` and `evaluate_windows` raise
    """
    (length,) = whole_numbers(length=length)
    if windows is not None:
        (windows,) = whole_numbers(windows=windows)
    kernels = kernels_or_cpu(kernels)
    tokens = tokens_of(text, model)
    loaded = model_of(model, kernels, dtype=dtype, compact=compact, like=like, limit=limit)
    progress(0, len(evaluation_starts(len(tokens), length, windows)))

    def count(done: int, total: int) -> None:
        LOGGER.info("evaluating: window %d of %d", done, total)
        progress(done, total)

    return evaluate_windows(
        loaded.weights, loaded.config, tokens, kernels, length=length, windows=windows, progress=count
    )
