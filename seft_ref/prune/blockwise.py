"""Prunes a whole model block by block; the inputs of a block come from blocks that are pruned already (PRN-005)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

from jaxtyping import Int

from seft_ref.arrays.library import Array, array_namespace, overflow_allowed
from seft_ref.errors import PruneError
from seft_ref.kernels import KernelSet
from seft_ref.layers.embedding import embedding_forward
from seft_ref.layers.swiglu import swiglu_again
from seft_ref.model.config import ATTENTION, MLP, ModelConfig, block_prefix
from seft_ref.model.decoder import BlockCache, block_forward, surroundings
from seft_ref.model.weights import Block, block_of
from seft_ref.prune.keep import Scope, across_matrices, keep_in_scope, keep_of_one
from seft_ref.prune.owl import OUTLIER, SPREAD, block_sparsities, outlier_share
from seft_ref.prune.random import random_scores
from seft_ref.prune.sparsegpt import hessian_of, sparsegpt
from seft_ref.prune.wanda import square_sum, wanda_mask, wanda_scores
from seft_ref.text.tokens import check_length

Read = Callable[[str], Array]
"""Reads one parameter by name, in the dtype to compute with."""
Sparsity = float | Sequence[float]
"""The fraction of weights to remove: one number for all blocks, or one for each block."""
Results = Mapping[str, tuple[Array, Array]]
"""The mask (out, in) and the new weight (out, in) of every target of a block, by name."""


class Blocks(Protocol):
    """Stores the blocks that are finished, so that a stopped run can go on from them (PRN-019)."""

    def sparsities(self, measure: Callable[[], list[float]]) -> list[float]:
        """Return the sparsity of every block, from `measure` if none is stored."""

    def known(self, layer: int, parameters: Mapping[str, Array], targets: Sequence[str]) -> Results | None:
        """Return the stored results of a block with these parameters, None if it is still to be pruned."""

    def finished(self, layer: int, results: Results) -> None:
        """Store the results of a block."""

    def remove(self) -> None:
        """Remove all blocks, because the model is written."""


class NoBlocks:
    """Stores no block, so that every block is still to be pruned."""

    def sparsities(self, measure: Callable[[], list[float]]) -> list[float]:
        """Return the sparsities that `measure` returns."""
        return measure()

    def known(self, layer: int, parameters: Mapping[str, Array], targets: Sequence[str]) -> None:
        """Return None."""

    def finished(self, layer: int, results: Results) -> None:
        """Do nothing."""

    def remove(self) -> None:
        """Do nothing."""


def prune_magnitude(
    config: ModelConfig,
    read: Read,
    sparsity: Sparsity,
    pattern: tuple[int, int] | None = None,
    scope: Scope = "matrix",
) -> Iterator[tuple[str, Array]]:
    """Yield (name, mask) of every target, True where a weight stays (PRN-002, PRN-004, PRN-016)."""

    def score(weight: Array, number: int) -> Array:
        return array_namespace(weight).abs(weight)

    yield from _by_scores(config, read, score, sparsity, pattern, scope)


def prune_random(
    config: ModelConfig,
    read: Read,
    seed: int,
    sparsity: Sparsity,
    pattern: tuple[int, int] | None = None,
    scope: Scope = "matrix",
) -> Iterator[tuple[str, Array]]:
    """Yield (name, mask) of every target, True where a weight stays (PRN-004, PRN-016, PRN-017)."""

    def score(weight: Array, number: int) -> Array:
        return random_scores(weight.shape, seed, number, weight)

    yield from _by_scores(config, read, score, sparsity, pattern, scope)


def _by_scores(
    config: ModelConfig,
    read: Read,
    score: Callable[[Array, int], Array],
    sparsity: Sparsity,
    pattern: tuple[int, int] | None,
    scope: Scope,
) -> Iterator[tuple[str, Array]]:
    """Yield (name, mask) of every target; with scope model the scores of all targets are in memory together.

    score  returns the scores of a weight, given the weight and its matrix index
    """
    rates, names = _rates(config, sparsity), [matrix.name for matrix in config.targets()]

    def scored(number: int) -> Array:
        return score(finite_weight(names[number], read(names[number])), number)

    if across_matrices(scope) and pattern is None:
        (rate,) = set(rates.values())
        everything = [scored(number) for number in range(len(names))]
        yield from zip(names, keep_in_scope(everything, rate, scope), strict=True)
        return
    for number, name in enumerate(names):
        yield name, keep_of_one(scored(number), rates[name], pattern, scope)


def owl_sparsities(
    config: ModelConfig,
    read: Read,
    batches: Sequence[Int[Array, "B T"]],
    kernels: KernelSet,
    sparsity: float,
    outlier: float = OUTLIER,
    spread: float = SPREAD,
) -> list[float]:
    """Return the sparsity of each block by OWL, measured on the model before anything is pruned (PRN-018).

    Raises:
        PruneError: PRN-018 for `outlier` or `spread`; else as `prune_wanda`.
    """
    scores: list[Array] = []
    shares: list[float] = []
    per_block = len(config.targets()) // config.num_hidden_layers

    def look(name: str, weight: Array, square_sum: Array) -> tuple[Array, Array]:
        scores.append(wanda_scores(weight, square_sum))
        if len(scores) == per_block:
            shares.append(outlier_share(scores, outlier))
            scores.clear()
        return weight, weight

    for _ in block_by_block(config, read, batches, kernels, square_sum, look):
        pass
    return block_sparsities(shares, sparsity, spread)


def prune_wanda(
    config: ModelConfig,
    read: Read,
    batches: Sequence[Int[Array, "B T"]],
    kernels: KernelSet,
    sparsity: Sparsity,
    pattern: tuple[int, int] | None = None,
    scope: Scope = "row",
    blocks: Blocks | None = None,
) -> Iterator[tuple[str, Array]]:
    """Yield (name, mask) of every target, block by block (PRN-003 to PRN-005, PRN-016).

    One block and the activations of all windows are in memory at a time.

    batches  calibration tokens, each (B, T)
    blocks   stores finished blocks (PRN-019)
    Raises   PruneError PRN-006 for NaN or infinite weights, PRN-003 for NaN or infinite activations; TextError TRN-017
             for windows longer than the model has positions; LayerError LYR-001 for a token outside the vocabulary,
             LYR-015 and LYR-016 for an overflow inside a layer
    """
    rates = _rates(config, sparsity)

    def prune(name: str, weight: Array, square_sum: Array) -> tuple[Array, Array]:
        xp = array_namespace(weight)
        mask = wanda_mask(weight, square_sum, rates[name], pattern, scope)
        return mask, xp.where(mask, weight, xp.zeros_like(weight))

    for name, mask, _ in block_by_block(config, read, batches, kernels, square_sum, prune, blocks):
        yield name, mask


def prune_sparsegpt(
    config: ModelConfig,
    read: Read,
    batches: Sequence[Int[Array, "B T"]],
    kernels: KernelSet,
    sparsity: Sparsity,
    pattern: tuple[int, int] | None = None,
    blocks: Blocks | None = None,
) -> Iterator[tuple[str, Array, Array]]:
    """Yield (name, mask, new weight) of every target, block by block (PRN-005, PRN-009 to PRN-013).

    In memory at a time: one block, the activations of all windows, a float64 (in, in) Hessian of each of the four
    inputs of the block's linear layers, and three more of one matrix while it is pruned.

    batches  calibration tokens, each (B, T)
    blocks   stores finished blocks (PRN-019)
    Raises   PruneError PRN-006 for NaN or infinite weights, PRN-009 for NaN or infinite activations; else as
             `prune_wanda`
    """
    rates = _rates(config, sparsity)

    def prune(name: str, weight: Array, hessian: Array) -> tuple[Array, Array]:
        return sparsegpt(weight, hessian, rates[name], pattern)

    yield from block_by_block(config, read, batches, kernels, hessian_of, prune, blocks)


def block_by_block(
    config: ModelConfig,
    read: Read,
    batches: Sequence[Int[Array, "B T"]],
    kernels: KernelSet,
    measure: Callable[[Array], Array],
    prune: Callable[[str, Array, Array], tuple[Array, Array]],
    blocks: Blocks | None = None,
) -> Iterator[tuple[str, Array, Array]]:
    """Yield (name, mask, new weight) of every target (PRN-005).

    measure  returns a statistic of the input (B, T, in) of a matrix; it is summed over the batches
    prune    returns the mask and the new weight, given the name of a weight, the weight and its statistic
    blocks   stores finished blocks, of which only the outputs are computed (PRN-019)
    """
    blocks = blocks or NoBlocks()
    for tokens in batches:
        check_length(tokens.shape[1], config)
    table = finite_weight("model.embed_tokens.weight", read("model.embed_tokens.weight"))
    activations = []
    for tokens in batches:
        xp = array_namespace(tokens)
        x, _ = embedding_forward(xp.reshape(tokens, (-1,)), table)
        activations.append(xp.reshape(x, (*tokens.shape, -1)))
    around = surroundings(config, batches[0].shape[1], None, table)
    del table

    @overflow_allowed()
    def measured(block: Block, layer: int, prefix: str) -> dict[tuple[str, ...], Array]:
        sums: dict[tuple[str, ...], Array] = {}
        for x in activations:
            _, cache = block_forward(x, block, config, layer, around, kernels)
            for names, inputs in _inputs(cache, prefix).items():
                total = measure(inputs)
                sums[names] = total if names not in sums else sums[names] + total
        return sums

    def behind(x: Array, block: Block, layer: int) -> Array:
        return block_forward(x, block, config, layer, around, kernels)[0]

    for layer in range(config.num_hidden_layers):
        prefix = block_prefix(layer)
        parameters = {
            name: finite_weight(name, read(name)) for name in config.parameters() if name.startswith(f"{prefix}.")
        }
        targets = [matrix.name for matrix in config.targets() if matrix.name in parameters]
        results = blocks.known(layer, parameters, targets)
        if results is None:
            # PRN-005
            results = {}
            sums = measured(block_of(config, layer, parameters, _pack(parameters, kernels)), layer, prefix)
            for names in list(sums):
                statistic = sums.pop(names)
                for name in names:
                    results[name] = prune(name, parameters[name], statistic)
                    parameters[name] = results[name][1]
                    yield name, *results[name]
            blocks.finished(layer, results)
        else:
            parameters |= {name: weight for name, (_, weight) in results.items()}
            yield from ((name, *result) for name, result in results.items())
        if layer + 1 < config.num_hidden_layers:
            block = block_of(config, layer, parameters, _pack(parameters, kernels))
            _replace_each(activations, partial(behind, block=block, layer=layer))


@overflow_allowed()
def _replace_each(activations: list[Array], layer: Callable[[Array], Array]) -> None:
    """Replace activations by what a layer makes of them, one by one, so that they are in memory once."""
    for i, x in enumerate(activations):
        activations[i] = layer(x)


def _rates(config: ModelConfig, sparsity: Sparsity) -> dict[str, float]:
    """Return the sparsity of every target by name."""
    names = [matrix.name for matrix in config.targets()]
    if isinstance(sparsity, float | int):
        return dict.fromkeys(names, float(sparsity))
    per_block = len(names) // config.num_hidden_layers
    return {name: sparsity[number // per_block] for number, name in enumerate(names)}


def _pack(parameters: Mapping[str, Array], kernels: KernelSet) -> dict[str, Array]:
    return {name: kernels.pack_dense(weight) for name, weight in parameters.items() if weight.ndim == 2}


def _inputs(cache: BlockCache, prefix: str) -> dict[tuple[str, ...], Array]:
    """Return the inputs of the linear layers of a block; the key of an input names the weights that share it."""
    mixer, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    return {
        _weights(mixer, ATTENTION[:3]): cache.self_attn.q_proj.x,
        _weights(mixer, ATTENTION[3:]): cache.self_attn.o_proj.x,
        _weights(mlp, MLP[:2]): cache.mlp.gate_proj.x,
        _weights(mlp, MLP[2:]): swiglu_again(cache.mlp.swiglu)[0],
    }


def _weights(prefix: str, projections: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{prefix}.{p}.weight" for p in projections)


def finite_weight(name: str, weight: Array) -> Array:
    """Return a weight, refusing NaN and infinity by name (PRN-006)."""
    # PRN-006
    xp = array_namespace(weight)
    if not bool(xp.all(xp.isfinite(weight))):
        raise PruneError("PRN-006", f"{name} holds NaN or infinite weights; repair the model before pruning")
    return weight
