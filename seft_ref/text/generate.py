"""Generation: a model reads tokens behind a context, then picks the token that follows (chapter 17).

    for token in generate_tokens(prompt, model.weights, model.config, kernels.cpu, max_tokens=100, stops=(2,)):
        ...

or step by step

    logits, context = read(tokens, nothing_read(config), weights, config, kernels)
    logits, context = read(more, context, weights, config, kernels)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.arrays.library import Array, array_namespace, int64_like, overflow_allowed
from seft_ref.errors import GenerateError
from seft_ref.kernels import KernelSet
from seft_ref.layers.embedding import embedding_forward
from seft_ref.layers.linear import linear_forward
from seft_ref.layers.past import NOTHING, Past
from seft_ref.layers.sets import layers_of
from seft_ref.model.config import ModelConfig
from seft_ref.model.decoder import block_forward, surroundings
from seft_ref.model.weights import Weights
from seft_ref.text.sampling import GREEDY, Sampling, pick

PROMPT_BLOCK = 256
"""Most tokens of a prompt that are read at once, because attention holds a probability for every pair of one of them
and a token of the context.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What a model has read, `length` tokens a row: their keys and values in every block."""

    blocks: tuple[Past, ...]
    length: int


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
    # GEN-002
    if not len(prompt):
        raise GenerateError("GEN-002", "there is no token to read; a prompt has at least one")
    _check_room(len(prompt), config)
    # GEN-007
    if max_tokens is not None and max_tokens < 1:
        raise GenerateError("GEN-007", f"max_tokens is {max_tokens}; ask for at least 1")
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


def _check_room(length: int, config: ModelConfig) -> None:
    """Refuse more tokens than the model has positions (GEN-002)."""
    if length > config.max_position_embeddings:
        raise GenerateError(
            "GEN-002",
            f"{length} tokens are more than the {config.max_position_embeddings} of max_position_embeddings; "
            "give a shorter prompt",
        )
