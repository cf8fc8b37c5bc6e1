"""Loss and gradients; the gradient of a matrix is evaluated only where it is asked for (chapter 6).

step = loss_and_gradients(weights, config, batches, kernels, at={name: topology}, keep={name: window})
step.at[name]                    # values at the topology's slots
step.kept[name]                  # the window with this step added
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from jaxtyping import Float

from seft_ref.arrays.library import Array, array_namespace, overflow_allowed
from seft_ref.arrays.ranks import ALONE, Ranks
from seft_ref.errors import LayerError
from seft_ref.kernels import KernelSet
from seft_ref.layers.embedding import EmbeddingGradient, embedding_gradient
from seft_ref.layers.linear import WeightGradient
from seft_ref.layers.sets import layers_of
from seft_ref.matrix.window import Sums
from seft_ref.model.activations import recomputes
from seft_ref.model.config import ModelConfig
from seft_ref.model.decoder import NamedGradient, decoder_backward, decoder_forward, model_backward, model_forward
from seft_ref.model.head import head_loss_and_gradient
from seft_ref.model.weights import Weights
from seft_ref.text.batch import Batch
from seft_ref.topology.csr import Topology

Kept = TypeVar("Kept", bound=Sums)


@dataclass(frozen=True, slots=True, eq=False)
class StepGradients(Generic[Kept]):
    """The loss of a step, its gradients at the positions asked for, and the windows, or other sums, after the step."""

    loss: float
    at: dict[str, Float[Array, " nnz"]] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)


@overflow_allowed()
def loss_and_gradients(
    weights: Weights,
    config: ModelConfig,
    batches: Sequence[Batch],
    kernels: KernelSet,
    at: Mapping[str, Topology],
    keep: Mapping[str, Kept] | None = None,
    *,
    recompute: bool | None = None,
    ranks: Ranks = ALONE,
) -> StepGradients[Kept]:
    """Return the mean loss of a step over its micro-batches, and the gradients asked for (TRN-001, TRN-002).

    batches    micro-batches of this rank, at least one; the result covers all ranks and is the same on each (TRN-013)
    at         for each matrix the positions at which its gradient is wanted (GRD-002)
    keep       for each matrix whose gradient an event will read, its window so far; or other sums
    recompute  keep only the input of each block, and recompute the rest in the backward with the same bits (MDL-008);
               None to do so if all activations take more than a GiB
    Units      loss in nats per target; gradients loss per unit of weight
    Raises     LayerError LYR-011 if no target is learned; LYR-015, LYR-016 for an overflow inside a layer; every rank
               raises the error that one of them has met
    """
    count = sum(ranks.every(sum(batch.count() for batch in batches)))
    loss = 0.0
    entries: dict[str, Array] = {}
    keep = keep or {}
    in_step = {name: window.fresh() for name, window in keep.items()}

    def add(batch: Batch) -> None:
        nonlocal loss
        again = recomputes(config, batch.tokens.shape, weights.norm) if recompute is None else recompute
        batch_loss, gradients = _backward_to_targets(weights, config, batch, count, kernels, recompute=again)
        loss += batch_loss
        rows = batch.rows()
        tokens = None if rows is None else batch.tokens_among(rows)
        for name, gradient in gradients:
            if not isinstance(gradient, WeightGradient) or not (name in at or name in in_step):
                continue
            # TRN-021.4: padding without a target has no gradient, but it has inputs, which an event may read
            gradient = gradient if rows is None else gradient.of_rows(rows, tokens)
            if name in at:
                values = kernels.sample(gradient.dy, gradient.x, at[name])
                entries[name] = values if name not in entries else entries[name] + values
            if name in in_step:
                in_step[name] = in_step[name].plus(gradient, kernels)

    refusal: LayerError | None = None
    try:
        for batch in batches:
            add(batch)
    except LayerError as error:
        refusal = error
    # TRN-013, TRN-015: an error of a layer on one rank ends the step on all ranks
    shares = ranks.every((loss, refusal))
    for _, refused in shares:
        if refused is not None:
            raise refused
    loss = 0.0
    for share, _ in shares:  # a loop, because `sum` rounds differently in Python 3.11 and 3.12
        loss += share
    entries = {name: ranks.sum(values) for name, values in entries.items()}
    # pop, so that the sums of this rank are freed one matrix after the other
    sums = {name: window.joined(in_step.pop(name), ranks, kernels) for name, window in keep.items()}
    return StepGradients(loss, entries, sums)


@overflow_allowed()
def every_gradient(
    weights: Weights, config: ModelConfig, batches: Sequence[Batch], kernels: KernelSet
) -> tuple[float, dict[str, Array]]:
    """Return the loss in nats per target, and the whole gradient of every parameter; tied ones are summed (MDL-005).

    batches  the micro-batches of one step
    returns  the loss, and name -> gradient of the parameter's dense shape, at every position, stored or not
    """
    count = sum(batch.count() for batch in batches)
    loss = 0.0
    total: dict[str, Array] = {}
    for batch in batches:
        batch_loss, gradients = _backward(weights, config, batch, count, kernels)
        loss += batch_loss
        for name, gradient in gradients:
            key = "model.embed_tokens.weight" if name == "lm_head.weight" and config.tie_word_embeddings else name
            value = _multiplied_out(gradient)
            total[key] = value if key not in total else total[key] + value
    return loss, total


def _backward(
    weights: Weights, config: ModelConfig, batch: Batch, count: int, kernels: KernelSet
) -> tuple[float, Iterator[NamedGradient]]:
    """Return a micro-batch's share of the loss of its step, and an iterator over its gradients."""
    xp, layers = array_namespace(batch.tokens, weights.norm), layers_of(kernels)
    logits, cache = model_forward(batch.tokens, weights, config, kernels, batch.mask)
    shape = logits.shape
    loss, loss_cache = layers.cross_entropy_forward(xp.reshape(logits, (-1, shape[-1])), batch.targets(), count)
    dlogits = layers.cross_entropy_backward(xp.ones_like(loss), loss_cache)
    return float(loss), model_backward(xp.reshape(dlogits, shape), cache)


def _backward_to_targets(
    weights: Weights, config: ModelConfig, batch: Batch, count: int, kernels: KernelSet, *, recompute: bool
) -> tuple[float, Iterator[NamedGradient]]:
    """Return the same as `_backward` without lm_head's gradient, and without storing the logits of all rows."""
    x, cache = decoder_forward(batch.tokens, weights, config, kernels, batch.mask, recompute=recompute)
    loss, dx = head_loss_and_gradient(x, weights.lm_head, batch.targets(), count, kernels)
    return loss, decoder_backward(dx, cache)


def _multiplied_out(gradient: WeightGradient | EmbeddingGradient | Array) -> Array:
    if isinstance(gradient, WeightGradient):
        return array_namespace(gradient.dy).matrix_transpose(gradient.dy) @ gradient.x
    if isinstance(gradient, EmbeddingGradient):
        return embedding_gradient(gradient)
    return gradient
