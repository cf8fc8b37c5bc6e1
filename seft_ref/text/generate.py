"""Generation: a model reads tokens behind a context, then picks the token that follows (chapter 17).

    for token in generate_tokens(prompt, model.weights, model.config, kernels.cpu, max_tokens=100, stops=(2,)):
        ...

or step by step

    logits, context = read(tokens, nothing_read(config), weights, config, kernels)
    logits, context = read(more, context, weights, config, kernels)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace, int64_like, overflow_allowed
from seft_ref.errors import GenerateError
from seft_ref.kernels import KernelSet
from seft_ref.layers.embedding import embedding_forward
from seft_ref.layers.linear import linear_forward
from seft_ref.layers.past import NOTHING, Past, rows_of
from seft_ref.layers.sets import layers_of
from seft_ref.model.config import ModelConfig
from seft_ref.model.decoder import block_forward, surroundings
from seft_ref.model.weights import Weights
from seft_ref.text.sampling import GREEDY, Sampling, pick

PROMPT_BLOCK = 256
"""Most tokens of a prompt that are read at once, because attention stores a probability for every pair of such a token
and a token of the context.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """The keys and values, in every block, of the `length` tokens of each row that a model has read."""

    blocks: tuple[Past, ...]
    length: int

    def rows(self, numbers: Int[Array, " n"]) -> "Context":
        """Return the context of the rows with these numbers."""
        return Context(tuple(rows_of(past, numbers) for past in self.blocks), self.length)


def nothing_read(config: ModelConfig) -> Context:
    """Return the context of a model before its first token."""
    return Context((NOTHING,) * config.num_hidden_layers, 0)


@overflow_allowed()
def read(
    tokens: Int[Array, "B T"], context: Context, weights: Weights, config: ModelConfig, kernels: KernelSet
) -> tuple[Float[Array, "B V"], Context]:
    """Return the logits behind the last token, and a new context; the one passed in can be used again (GEN-001).

    Dtypes  tokens int64; logits the dtype of the weights
    Raises  GenerateError GEN-002 for no tokens, for more than the model has positions, or for other rows than the
            context has; LayerError LYR-001 for a token outside the vocabulary, LYR-015, LYR-016 for an overflow
    """
    xp = array_namespace(tokens)
    b, t = tokens.shape
    length = context.length + t
    # GEN-002
    if not t:
        raise GenerateError("GEN-002", "there is no token to read; a prompt has at least one")
    _check_room(length, config)
    around = surroundings(config, length, None, weights.norm, context.length)
    x, _ = embedding_forward(xp.reshape(tokens, (-1,)), weights.embed_tokens)
    x = xp.reshape(x, (b, t, -1))
    blocks = []
    for layer, (block, past) in enumerate(zip(weights.blocks, context.blocks, strict=True)):
        x, cache = block_forward(x, block, config, layer, around, kernels, past)
        blocks.append(cache.self_attn.past or NOTHING)
    x, _ = layers_of(kernels).rmsnorm_forward(x[:, -1, :], weights.norm, config.rms_norm_eps)
    logits, _ = linear_forward(x, weights.lm_head, kernels)
    return logits, Context(tuple(blocks), length)


def generate_tokens(
    prompt: Sequence[int],
    weights: Weights,
    config: ModelConfig,
    kernels: KernelSet,
    *,
    sampling: Sampling = GREEDY,
    max_tokens: int | None = None,
    stops: Sequence[int] = (),
) -> Iterator[int]:
    """Return the tokens that follow a prompt, each as soon as it is picked (GEN-007).

    max_tokens  how many at most; None for as many as the model has positions for
    stops       tokens that end a text; the one that ends it is returned as well
    Raises      GenerateError GEN-002 for a prompt that is empty or longer than the model has positions, GEN-007 for
                max_tokens below 1, both before anything is computed; GEN-006 for logits that are not finite
    """
    prompt = tuple(prompt)
    # GEN-002
    if not len(prompt):
        raise GenerateError("GEN-002", "there is no token to read; a prompt has at least one")
    _check_room(len(prompt), config)
    _check_most(max_tokens)
    most = config.max_position_embeddings if max_tokens is None else max_tokens
    return _generate(prompt, weights, config, kernels, sampling, most, frozenset(stops))


def _generate(
    tokens: Sequence[int],
    weights: Weights,
    config: ModelConfig,
    kernels: KernelSet,
    sampling: Sampling,
    most: int,
    stops: frozenset[int],
) -> Iterator[int]:
    context = nothing_read(config)
    for _ in range(most):
        for first in range(0, len(tokens), PROMPT_BLOCK):
            row = int64_like(list(tokens[first : first + PROMPT_BLOCK]), weights.norm)
            logits, context = read(row[None, :], context, weights, config, kernels)
        token = pick(logits[0, :], sampling, context.length)
        yield token
        # GEN-007
        if token in stops or context.length == config.max_position_embeddings:
            return
        tokens = [token]


def generate_rows(
    prompts: Sequence[Sequence[int]],
    weights: Weights,
    config: ModelConfig,
    kernels: KernelSet,
    goes_on: Callable[[int, int], bool],
    *,
    max_tokens: int,
) -> None:
    """Pick greedily the tokens that follow each of several prompts of one length, reading all rows together.

    goes_on  called with the number of a prompt and each token that is picked behind it; returns whether another token
             is to follow. A row that has ended is not read any further
    Raises   GenerateError GEN-002 for prompts that are empty, of several lengths, or longer than the model has
             positions; GEN-007 for max_tokens below 1; GEN-006 for logits that are not finite
    """
    lengths = sorted({len(prompt) for prompt in prompts})
    # GEN-002
    if len(lengths) != 1 or not lengths[0]:
        raise GenerateError("GEN-002", f"prompts of {lengths} tokens are not of one length above 0")
    _check_room(lengths[0], config)
    _check_most(max_tokens)
    rows, context = list(range(len(prompts))), nothing_read(config)
    following = [list(prompt) for prompt in prompts]
    for _ in range(max_tokens):
        xp, n_at_once = array_namespace(weights.norm), max(1, PROMPT_BLOCK // len(rows))
        for first in range(0, len(following[0]), n_at_once):
            block = xp.stack([int64_like(row[first : first + n_at_once], weights.norm) for row in following])
            logits, context = read(block, context, weights, config, kernels)
        picked = [pick(logits[i, :], GREEDY, context.length) for i in range(len(rows))]
        ongoing_rows = [i for i, (row, token) in enumerate(zip(rows, picked, strict=True)) if goes_on(row, token)]
        # GEN-007
        if not ongoing_rows or context.length == config.max_position_embeddings:
            return
        if len(ongoing_rows) < len(rows):
            rows, context = [rows[i] for i in ongoing_rows], context.rows(int64_like(ongoing_rows, weights.norm))
        following = [[picked[i]] for i in ongoing_rows]


def _check_most(max_tokens: int | None) -> None:
    """Refuse to generate fewer tokens than one (GEN-007)."""
    # GEN-007
    if max_tokens is not None and max_tokens < 1:
        raise GenerateError("GEN-007", f"max_tokens is {max_tokens}; ask for at least 1")


def _check_room(length: int, config: ModelConfig) -> None:
    """Refuse more tokens than the model has positions (GEN-002)."""
    if length > config.max_position_embeddings:
        raise GenerateError(
            "GEN-002",
            f"{length} tokens are more than the {config.max_position_embeddings} of max_position_embeddings; "
            "give a shorter prompt",
        )
