"""Pruning a whole model, block by block, each behind blocks that are already pruned (PRN-005)."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from jaxtyping import Float, Int

from seft_ref.arrays import Array, array_namespace
from seft_ref.config import ATTENTION, MLP, ModelConfig, block_prefix
from seft_ref.errors import PruneError
from seft_ref.kernels import Kernels
from seft_ref.layers.embedding import embedding_forward
from seft_ref.model import BlockCache, block_forward, surroundings
from seft_ref.prune.magnitude import magnitude_mask
from seft_ref.prune.wanda import wanda_mask
from seft_ref.weights import block_of

Read = Callable[[str], Array]
"""Reads one parameter by name, in the dtype to compute with."""


def prune_magnitude(
    config: ModelConfig, read: Read, sparsity: float, pattern: tuple[int, int] | None = None
) -> Iterator[tuple[str, Array]]:
    """Yield (name, mask) of every target, True where a weight stays (PRN-002, PRN-004)."""
    for matrix in config.targets():
        yield matrix.name, magnitude_mask(_finite(matrix.name, read(matrix.name)), sparsity, pattern)


def prune_wanda(
    config: ModelConfig,
    read: Read,
    batches: Sequence[Int[Array, "B T"]],
    kernels: Kernels,
    sparsity: float,
    pattern: tuple[int, int] | None = None,
) -> Iterator[tuple[str, Array]]:
    """Yield (name, mask) of every target, block by block (PRN-003 to PRN-005). Holds one block and its activations.

    batches  calibration tokens, each (B, T)
    Raises   PruneError PRN-006 for NaN or infinite weights, PRN-003 for such activations
    """
    table = _finite("model.embed_tokens.weight", read("model.embed_tokens.weight"))
    activations = []
    for tokens in batches:
        xp = array_namespace(tokens)
        x, _ = embedding_forward(xp.reshape(tokens, (-1,)), table)
        activations.append(xp.reshape(x, (*tokens.shape, -1)))
    around = surroundings(config, batches[0].shape[1], None, table)
    del table
    for layer in range(config.num_hidden_layers):
        prefix = block_prefix(layer)
        parameters = {name: _finite(name, read(name)) for name in config.parameters() if name.startswith(f"{prefix}.")}
        block = block_of(config, layer, parameters, _pack(parameters, kernels))
        squares: dict[str, Array] = {}
        for x in activations:
            _, cache = block_forward(x, block, config, layer, around, kernels)
            for name, seen in _inputs(cache, prefix).items():
                total = _square_sum(seen)
                squares[name] = total if name not in squares else squares[name] + total
        for name, square in squares.items():
            mask = wanda_mask(parameters[name], square, sparsity, pattern)
            weight = parameters[name]
            xp = array_namespace(weight)
            parameters[name] = xp.where(mask, weight, xp.zeros_like(weight))
            yield name, mask
        block = block_of(config, layer, parameters, _pack(parameters, kernels))
        activations = [block_forward(x, block, config, layer, around, kernels)[0] for x in activations]


def _pack(parameters: Mapping[str, Array], kernels: Kernels) -> dict[str, Array]:
    return {name: kernels.pack_dense(weight) for name, weight in parameters.items() if weight.ndim == 2}


def _inputs(cache: BlockCache, prefix: str) -> dict[str, Array]:
    """Return the input of every linear layer of a block under its weight's name."""
    inputs = {f"{prefix}.self_attn.{p}.weight": getattr(cache.self_attn, p).x for p in ATTENTION}
    return inputs | {f"{prefix}.mlp.{p}.weight": getattr(cache.mlp, p).x for p in MLP}


def _square_sum(x: Float[Array, "B T C"]) -> Float[Array, " C"]:
    return array_namespace(x).sum(x * x, axis=(0, 1))


def _finite(name: str, weight: Array) -> Array:
    """Refuse NaN and infinity by name (PRN-006)."""
    xp = array_namespace(weight)
    if not bool(xp.all(xp.isfinite(weight))):
        raise PruneError("PRN-006", f"{name} holds NaN or infinite weights; repair the model before pruning")
    return weight
