"""Loss and gradients; the gradient of a matrix is evaluated only where it is asked for (chapter 6).

step = loss_and_gradients(weights, config, batches, kernels, at={name: topology}, keep={name})
step.at[name]                    # values at the topology's slots
step.kept[name]                  # an Accumulated, to look at later
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int

from seft_ref.arrays import Array, array_namespace, device
from seft_ref.config import ModelConfig
from seft_ref.errors import UpdateError
from seft_ref.kernels import Kernels
from seft_ref.layers.cross_entropy import IGNORE, cross_entropy_backward, cross_entropy_forward
from seft_ref.layers.embedding import EmbeddingGradient, embedding_gradient
from seft_ref.layers.linear import WeightGradient
from seft_ref.model import NamedGradient, model_backward, model_forward
from seft_ref.topology import Topology, difference, union
from seft_ref.update.grow import GradientSnapshot, GrowScope
from seft_ref.update.select import largest
from seft_ref.weights import Weights

ROWS = 256
"""Rows of a gradient that are evaluated at once when all of it is looked at."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of tokens with the label of each, −100 where nothing is to be predicted (TRN-001)."""

    tokens: Int[Array, "B T"]
    labels: Int[Array, "B T"]
    mask: Bool[Array, "B T"] | None = None
    """True for tokens, False for padding; None if nothing is padded"""

    def targets(self) -> Int[Array, " N"]:
        """Return the target of every position: the label of the next one, none for the last (TRN-001)."""
        xp = array_namespace(self.labels)
        nothing = xp.full_like(self.labels[:, :1], IGNORE)
        return xp.reshape(xp.concat([self.labels[:, 1:], nothing], axis=1), (-1,))

    def count(self) -> int:
        """Return how many targets count."""
        xp = array_namespace(self.labels)
        return int(xp.sum(xp.astype(self.labels[:, 1:] != IGNORE, xp.int64)))


@dataclass(frozen=True, slots=True, eq=False)
class Accumulated:
    """The gradient of a matrix summed over micro-batches and steps: as factors while they are smaller, else as
    one matrix.
    """

    shape: tuple[int, int]
    factors: tuple[WeightGradient, ...] = ()
    dense: Float[Array, "out in_"] | None = None

    def plus(self, gradient: WeightGradient) -> "Accumulated":
        """Return the sum with one more gradient (GRD-001)."""
        factors = (*self.factors, gradient)
        n_out, n_in = self.shape
        if sum(f.x.shape[0] for f in factors) * (n_out + n_in) < n_out * n_in:
            return Accumulated(self.shape, factors, self.dense)
        return Accumulated(self.shape, (), self._rows_of(factors, 0, n_out))

    def rows(self, start: int, stop: int) -> Float[Array, "rows in_"]:
        """Return rows start to stop of the gradient."""
        return self._rows_of(self.factors, start, stop)

    def whole(self) -> Float[Array, "out in_"]:
        """Return all of the gradient."""
        return self.rows(0, self.shape[0])

    def settled(self) -> "Accumulated":
        """Return the same gradient as one matrix."""
        return Accumulated(self.shape, (), self.whole())

    def _rows_of(self, factors: tuple[WeightGradient, ...], start: int, stop: int) -> Array:
        total = None if self.dense is None else self.dense[start:stop, :]
        for f in factors:
            xp = array_namespace(f.dy)
            part = xp.matrix_transpose(f.dy[:, start:stop]) @ f.x
            total = part if total is None else total + part
        return total


@dataclass(frozen=True, slots=True, eq=False)
class StepGradients:
    """What one step's backward gave."""

    loss: float
    at: dict[str, Float[Array, " nnz"]] = field(default_factory=dict)
    kept: dict[str, Accumulated] = field(default_factory=dict)


def loss_and_gradients(
    weights: Weights,
    config: ModelConfig,
    batches: Sequence[Batch],
    kernels: Kernels,
    at: Mapping[str, Topology],
    keep: Mapping[str, Accumulated] | None = None,
) -> StepGradients:
    """Return the mean loss of a step over its micro-batches, and the gradients asked for (TRN-001, TRN-002).

    at      for each matrix the positions at which its gradient is wanted (GRD-002)
    keep    for each matrix whose whole gradient an event will look at, what has been accumulated so far
    Units   loss in nats per target; gradients loss per unit of weight
    Raises  LayerError LYR-011 if no label counts
    """
    count = sum(batch.count() for batch in batches)
    loss = 0.0
    found: dict[str, Array] = {}
    kept = dict(keep or {})
    for batch in batches:
        batch_loss, gradients = _backward(weights, config, batch, count, kernels)
        loss += batch_loss
        for name, gradient in gradients:
            if not isinstance(gradient, WeightGradient):
                continue
            if name in at:
                values = kernels.sample(gradient.dy, gradient.x, at[name])
                found[name] = values if name not in found else found[name] + values
            if name in kept:
                kept[name] = kept[name].plus(gradient)
    return StepGradients(loss, found, kept)


def every_gradient(
    weights: Weights, config: ModelConfig, batches: Sequence[Batch], kernels: Kernels
) -> tuple[float, dict[str, Array]]:
    """Return the loss and the whole gradient of every parameter by name; tied embeddings are summed (MDL-005)."""
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
    weights: Weights, config: ModelConfig, batch: Batch, count: int, kernels: Kernels
) -> tuple[float, Iterator[NamedGradient]]:
    """Return the loss of a micro-batch, as its share of the step, and the iterator of its gradients."""
    xp = array_namespace(batch.tokens, weights.norm)
    logits, cache = model_forward(batch.tokens, weights, config, kernels, batch.mask)
    shape = logits.shape
    loss, loss_cache = cross_entropy_forward(xp.reshape(logits, (-1, shape[-1])), batch.targets(), count)
    dlogits = cross_entropy_backward(xp.ones_like(loss), loss_cache)
    return float(loss), model_backward(xp.reshape(dlogits, shape), cache)


def _multiplied_out(gradient: WeightGradient | EmbeddingGradient | Array) -> Array:
    if isinstance(gradient, WeightGradient):
        return array_namespace(gradient.dy).matrix_transpose(gradient.dy) @ gradient.x
    if isinstance(gradient, EmbeddingGradient):
        return embedding_gradient(gradient)
    return gradient


def snapshot(
    gradient: Accumulated,
    steps: int,
    base_positions: Int[Array, " b"],
    delta_positions: Int[Array, " d"],
    n: int,
    scope: GrowScope = "anywhere",
) -> GradientSnapshot:
    """Return what an event needs of an accumulated gradient, `ROWS` rows at a time (GRD-003).

    steps   how many steps were summed; the snapshot is their signed mean (GRD-004, TRN-005)
    n       how many candidates to keep
    Equal to `update.grow.snapshot_of` of the whole mean gradient when the blocks have the same numbers.
    """
    n_out, n_in = gradient.shape
    support = union(base_positions, delta_positions)
    xp = array_namespace(support)
    at_support: list[Array] = []
    positions, values = support[:0], None
    for start in range(0, n_out, ROWS):
        stop = min(start + ROWS, n_out)
        low, high = start * n_in, stop * n_in
        block = xp.reshape(gradient.rows(start, stop), (-1,)) / steps
        # EVT-005
        if not bool(xp.all(xp.isfinite(block))):
            raise UpdateError(
                "EVT-005", "the gradient of this event holds NaN or infinity; lower the learning rate or clip"
            )
        at_support.append(xp.take(block, _between(support, low, high) - low))
        taken = _between(delta_positions, low, high)
        if scope == "active":
            here = difference(_between(base_positions, low, high), taken)
        else:
            here = difference(_contenders(xp.abs(block), n, taken.shape[0], values) + low, taken)
        # what is held lies at lower positions than this block: appending keeps the order
        positions = xp.concat([positions, here])
        found = xp.take(block, here - low)
        values = found if values is None else xp.concat([values, found])
        if positions.shape[0] > n:
            chosen = largest(xp.abs(values), n)
            positions, values = xp.take(positions, chosen), xp.take(values, chosen)
    return GradientSnapshot(support, xp.concat(at_support), positions, values)


def _contenders(scores: Float[Array, " m"], n: int, taken: int, held: Float[Array, " h"] | None) -> Int[Array, " c"]:
    """Return which entries of a block can still be among the n largest outside η, ascending.

    While fewer than n are held these are the n + taken largest, for at most `taken` of them lie in η. Later a
    score must beat the smallest that is held: an equal one stands at a higher position and loses (SEL-001).
    """
    xp = array_namespace(scores)
    if n == 0 or held is None or held.shape[0] < n:
        return largest(scores, min(n + taken, scores.shape[0]))
    return xp.astype(xp.nonzero(scores > xp.min(xp.abs(held)))[0], xp.int64)


def _between(positions: Int[Array, " n"], low: int, high: int) -> Int[Array, " m"]:
    """Return the sorted positions p with low ≤ p < high."""
    xp = array_namespace(positions)
    edges = xp.searchsorted(positions, xp.asarray([low, high], dtype=positions.dtype, device=device(positions)))
    return positions[int(edges[0]) : int(edges[1])]
