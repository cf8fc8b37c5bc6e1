"""Generates the text that follows a prompt, in one call."""

from collections.abc import Callable, Iterator, Sequence

from seft_ref.arrays.library import Array
from seft_ref.files.model import refuse_delta, stop_tokens
from seft_ref.kernels import KernelSet
from seft_ref.runs.source import ModelSource, folder_of, kernels_or_cpu, model_of, whole_numbers
from seft_ref.text.generate import generate_tokens
from seft_ref.text.sampling import VARIED, Sampling
from seft_ref.text.tokens import encoded, read_tokenizer, written

TOKENS = 60
"""How many tokens follow a prompt at most unless told."""


def generate(
    model: ModelSource,
    prompt: str,
    *,
    max_tokens: int = TOKENS,
    sampling: Sampling = VARIED,
    stops: Sequence[int] | None = None,
    special_tokens: bool = True,
    on_prompt: Callable[[int], None] = lambda n_tokens: None,
    on_token: Callable[[int], None] = lambda token: None,
    kernels: KernelSet | None = None,
    dtype: str | None = None,
    compact: bool = False,
    like: Array | None = None,
    limit: int | None = None,
) -> Iterator[str]:
    """Return the text behind a prompt, piece by piece as it is generated (GEN-007, GEN-009).

    model           a folder, sparse or of Hugging Face, or a model that was loaded from one, whose tokenizer is used
    sampling        how each token is picked; by default drawn, with the same text every time; Sampling() always takes
                    the likeliest
    stops           tokens that end the text and are no part of it; None for those that the folder names (GEN-008)
    special_tokens  False for a prompt that has its special tokens already, such as one from a chat template
    on_prompt       called once with the number of tokens of the prompt, before the first token is picked
    on_token        called with every token as soon as it is picked, the one that ends the text included
    kernels         a kernel set; None for `cpu`, which takes NumPy arrays
    dtype, compact, like, limit    as `load_model`
    Raises          ValueError for a prompt that is no text; what `read_tokenizer`, `stop_tokens`, `load_model` and
                    `generate_tokens` raise; all but GEN-006 before the first piece
    """
    (max_tokens,) = whole_numbers(max_tokens=max_tokens)
    if not isinstance(prompt, str):
        raise ValueError(f"the prompt is a {type(prompt).__name__}, must be a text; generate_tokens takes tokens")
    kernels = kernels_or_cpu(kernels)
    folder = folder_of(model)
    refuse_delta(folder)
    tokenizer = read_tokenizer(folder)
    ends = frozenset(stop_tokens(folder) if stops is None else stops)
    tokens = encoded(prompt, tokenizer, add_special_tokens=special_tokens)
    loaded = model_of(model, kernels, dtype=dtype, compact=compact, like=like, limit=limit)
    following = generate_tokens(
        tokens, loaded.weights, loaded.config, kernels, sampling=sampling, max_tokens=max_tokens, stops=tuple(ends)
    )
    on_prompt(len(tokens))

    def text_tokens() -> Iterator[int]:
        for token in following:
            on_token(token)
            if token not in ends:
                yield token

    return written(text_tokens(), tokenizer)
