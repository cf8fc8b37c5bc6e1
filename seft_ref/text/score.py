"""Log-likelihood of continuations, and text that is generated until a word stops it (chapter 18).

    pair = pair_of("Question: ...\nAnswer:", " carbon", tokenizer)
    (score,) = score_pairs([pair], weights, config, kernels)
    score.nats, score.greedy

`blocks_of` divides the items of a task, each with a few pairs, into blocks for `score_items`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Bool, Float, Int

from seft_ref.arrays.library import Array, array_namespace, binary64, int64_like, overflow_allowed
from seft_ref.errors import TaskError
from seft_ref.kernels import KernelSet
from seft_ref.layers.linear import linear_forward
from seft_ref.model.config import ModelConfig
from seft_ref.model.decoder import decoder_output
from seft_ref.model.head import rows_at_once
from seft_ref.model.weights import Weights
from seft_ref.text.generate import generate_rows
from seft_ref.text.tokens import Tokenizer, encoded


@dataclass(frozen=True, slots=True)
class Pair:
    """The tokens of a context, and of a continuation that the model is to predict behind it."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def read(self) -> tuple[int, ...]:
        """Return the tokens that the model reads: all but the last one, because nothing is predicted behind it."""
        return self.context + self.continuation[:-1]


@dataclass(frozen=True, slots=True)
class Score:
    """The log-probability of a continuation in nats, and whether greedy generation would give it (TSK-001)."""

    nats: float
    greedy: bool


def pair_of(context: str, continuation: str, tokenizer: Tokenizer) -> Pair:
    """Return the tokens of a context and a continuation, cut where the context alone would end (TSK-002).

    White space at the end of the context goes to the continuation, because most tokenizers have it in front of a word.

    Raises:
        TaskError: TSK-002 for an empty context, and for a continuation that adds no token.
    """
    stripped = context.rstrip()
    before = tuple(encoded(stripped, tokenizer)) if stripped else ()
    whole = tuple(encoded(context + continuation, tokenizer))
    # TSK-002
    if not before:
        raise TaskError("TSK-002", f"the context in front of {continuation!r} has no token; give it a word")
    if len(whole) <= len(before):
        raise TaskError(
            "TSK-002", f"the continuation {continuation!r} adds no token to its context; give it a word of its own"
        )
    return Pair(before, whole[len(before) :])


def check_pair(pair: Pair, config: ModelConfig, what: str) -> None:
    """Refuse a pair that the model cannot read whole (TSK-003).

    what    the name of the pair in the message
    Raises  TaskError TSK-003 for more tokens than positions, or a token that the vocabulary does not have
    """
    n_read, positions = len(pair.read()), config.max_position_embeddings
    # TSK-003
    if n_read > positions:
        raise TaskError(
            "TSK-003",
            f"{what} has {n_read} tokens, and max_position_embeddings of the model is {positions}; leave the item out, "
            "or use fewer shots or a model with more positions",
        )
    check_vocabulary((*pair.context, *pair.continuation), config, what)


def check_vocabulary(tokens: Sequence[int], config: ModelConfig, what: str) -> None:
    """Refuse tokens that are not in the vocabulary of the model (TSK-003)."""
    lowest, highest = min(tokens, default=0), max(tokens, default=0)
    # TSK-003
    if lowest < 0 or highest >= config.vocab_size:
        raise TaskError(
            "TSK-003",
            f"{what} has the token {lowest if lowest < 0 else highest}, and vocab_size of the model is "
            f"{config.vocab_size}: tokenizer and model do not belong together; use the tokenizer.json of this model",
        )


@overflow_allowed()
def score_pairs(pairs: Sequence[Pair], weights: Weights, config: ModelConfig, kernels: KernelSet) -> list[Score]:
    """Return the score of every pair, all read by the model at once (TSK-001).

    Pairs that read the same tokens share a row, as the choices A, B, C and D of a question do. Shorter rows are padded
    behind their end.

    Units   nats, summed in binary64 from log-probabilities in the dtype of the weights
    Raises  TaskError TSK-001 for a log-probability that is not finite, TSK-003 for a pair that the model cannot read
    """
    if not pairs:
        return []
    for pair in pairs:
        check_pair(pair, config, "a pair of context and continuation")
    row_of = {tokens: row for row, tokens in enumerate(dict.fromkeys(pair.read() for pair in pairs))}
    x = _read(list(row_of), weights, config, kernels)
    length = x.shape[1]
    # the token before each token of a continuation, because its logits predict that token
    places = [
        row_of[pair.read()] * length + len(pair.context) - 1 + i
        for pair in pairs
        for i in range(len(pair.continuation))
    ]
    targets = [token for pair in pairs for token in pair.continuation]
    nats, greedy = _predicted(x, places, targets, weights, kernels)
    scores, first = [], 0
    for pair in pairs:
        last = first + len(pair.continuation)
        total = math.fsum(nats[first:last])
        # TSK-001
        if not math.isfinite(total):
            raise TaskError("TSK-001", f"the log-probability of a continuation is {total}; is the model damaged?")
        scores.append(Score(total, all(greedy[first:last])))
        first = last
    return scores


def _read(
    rows: Sequence[tuple[int, ...]], weights: Weights, config: ModelConfig, kernels: KernelSet
) -> Float[Array, "B T C"]:
    """Return the output of the decoder for rows of different lengths, padded at their end.

    No mask is needed, because a token does not see later ones (LYR-008), and nobody uses the output at the padding.
    """
    xp = array_namespace(weights.norm)
    length = max(map(len, rows))
    flat = [token for row in rows for token in (*row, *[0] * (length - len(row)))]
    tokens = xp.reshape(int64_like(flat, weights.norm), (len(rows), length))
    return decoder_output(tokens, weights, config, kernels)


def _predicted(
    x: Float[Array, "B T C"], places: list[int], targets: list[int], weights: Weights, kernels: KernelSet
) -> tuple[list[float], list[bool]]:
    """Return the log-probability of each target at its place, and whether its logit is the largest.

    Only the logits of some places are in memory at a time (LYR-012).
    """
    xp = array_namespace(x)
    rows = xp.reshape(x, (-1, x.shape[-1]))
    at = int64_like(places, weights.norm)
    target_ids = int64_like(targets, weights.norm)
    step = max(1, rows_at_once(len(places), weights.lm_head.weight.shape[0]))
    nats: list[float] = []
    greedy: list[bool] = []
    for first, last in pairwise([*range(0, len(places), step), len(places)]):
        logits, _ = linear_forward(xp.take(rows, at[first:last], axis=0), weights.lm_head, kernels)
        of_targets, are_largest = _log_probabilities(logits, target_ids[first:last])
        nats += binary64(of_targets).tolist()
        greedy += [bool(flag) for flag in are_largest]
    return nats, greedy


def _log_probabilities(
    logits: Float[Array, "N V"], targets: Int[Array, " N"]
) -> tuple[Float[Array, " N"], Bool[Array, " N"]]:
    xp = array_namespace(logits)
    largest = xp.max(logits, axis=1, keepdims=True)
    logsumexp = xp.log(xp.sum(xp.exp(logits - largest), axis=1, keepdims=True))
    at_target = xp.take_along_axis(logits, targets[:, None], axis=1)
    # GEN-003: of equal logits the lowest id wins, and argmax gives the first
    return ((at_target - largest) - logsumexp)[:, 0], xp.argmax(logits, axis=1) == targets


def score_items(
    items: Sequence[Sequence[Pair]], weights: Weights, config: ModelConfig, kernels: KernelSet
) -> list[list[Score]]:
    """Return the scores of the pairs of each item, all read by the model at once (TSK-001).

    Raises:
        as `score_pairs`.
    """
    scores = iter(score_pairs([pair for pairs in items for pair in pairs], weights, config, kernels))
    return [[next(scores) for _ in pairs] for pairs in items]


def blocks_of(items: Sequence[Sequence[Pair]], batch: int) -> list[list[int]]:
    """Return the numbers of items in blocks of `batch`, one block for each call of `score_items`.

    The longest items come first, so that memory runs out at once or never; items of one length keep their order. The
    blocks depend only on the items and on `batch`, so that a second evaluation, or one that is resumed, computes the
    same numbers.

    Raises:
        TaskError: TSK-001 for a batch below 1.
    """
    # TSK-001
    if batch < 1:
        raise TaskError("TSK-001", f"batch is {batch}; score at least 1 item at a time")
    order = sorted(range(len(items)), key=lambda item: -max(len(pair.read()) for pair in items[item]))
    return [order[first : first + batch] for first in range(0, len(order), batch)]


def check_prompt(tokens: Sequence[int], max_tokens: int, config: ModelConfig, what: str) -> None:
    """Refuse a prompt behind which the model has no room for an answer of `max_tokens` (TSK-003).

    what    the name of the prompt in the message
    Raises  TaskError TSK-003 for too many tokens, none, or one that the vocabulary does not have
    """
    # one less, because the token that is picked last is not read
    needed, positions = len(tokens) + max_tokens - 1, config.max_position_embeddings
    # TSK-003
    if not tokens:
        raise TaskError("TSK-003", f"{what} has no token; give it a word")
    if needed > positions:
        raise TaskError(
            "TSK-003",
            f"{what} has {len(tokens)} tokens, with an answer of {max_tokens} it needs {needed}, and "
            f"max_position_embeddings of the model is {positions}; allow shorter answers, use fewer shots, or leave "
            "the item out",
        )
    check_vocabulary(tokens, config, what)


def blocks_of_prompts(prompts: Sequence[Sequence[int]], batch: int) -> list[list[int]]:
    """Return the numbers of prompts in blocks of at most `batch`, each of one length, for `generate_until`."""
    of_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        of_length.setdefault(len(prompt), []).append(number)
    return [same[first : first + batch] for same in of_length.values() for first in range(0, len(same), batch)]


def generate_until(
    prompts: Sequence[Sequence[int]],
    weights: Weights,
    config: ModelConfig,
    kernels: KernelSet,
    tokenizer: Tokenizer,
    *,
    until: Sequence[str],
    max_tokens: int,
    stops: Sequence[int] = (),
) -> list[str]:
    """Return the text that greedy generation gives behind each prompt, cut in front of the first stop word (TSK-009).

    prompts     prompts of one length; the last bits of their logits depend on which of them are generated together
    until       texts that end an answer and are no part of it
    max_tokens  how many tokens at most
    stops       tokens that end an answer and are no part of it
    Raises      as `generate_rows`
    """
    ends, texts = frozenset(stops), [""] * len(prompts)
    tokens: list[list[int]] = [[] for _ in prompts]

    def goes_on(row: int, token: int) -> bool:
        if token in ends:
            return False
        tokens[row].append(token)
        texts[row] = tokenizer.decode(tokens[row])
        return not any(word in texts[row] for word in until)

    generate_rows(prompts, weights, config, kernels, goes_on, max_tokens=max_tokens)
    # TSK-009
    return [text[: min((text.index(word) for word in until if word in text), default=len(text))] for text in texts]
