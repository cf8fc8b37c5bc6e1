"""GPTQ that keeps zeros: columns are rounded in turn, and stored weights of later columns make up for the errors
(QNT-005).
"""

from jaxtyping import Bool, Float, Int8

from seft_ref.arrays.library import Array, array_namespace, mask_at, overflow_allowed
from seft_ref.errors import QuantiseError
from seft_ref.prune.sparsegpt import BLOCK, DAMPING, damped, inverse_factor
from seft_ref.quantise.grid import (
    Grid,
    Quantised,
    at_slots,
    codes_of,
    declared,
    nearest,
    only_stored,
    scales_of,
    weights_at,
)
from seft_ref.topology.csr import Topology, flat


@overflow_allowed()
def gptq(
    weight: Float[Array, "out in_"],
    topology: Topology,
    hessian: Float[Array, "in_ in_"],
    grid: Grid,
    *,
    damping: float = DAMPING,
    block: int = BLOCK,
) -> Quantised:
    """Return a matrix rounded column by column (QNT-005).

    weight   values outside the topology are ignored
    hessian  Σ x xᵀ over all calibration tokens, in float64
    damping  fraction of the mean diagonal of the Hessian that is added to its diagonal
    block    number of columns whose errors are applied to all later columns at once, rounded down to whole groups
    Raises   QuantiseError QNT-001, QNT-003 as `nearest`, and for errors that grow without bound; QNT-005 for a block
             below 1; PruneError PRN-009 for a Hessian or damping that cannot be used
    """
    if block < 1:
        raise QuantiseError("QNT-005", f"block is {block}; it must be at least 1")
    xp = array_namespace(weight, hessian)
    n_in = weight.shape[1]
    if not n_in:
        return nearest(weight, topology, grid)
    size = grid.columns(n_in)
    safe, dead = damped(hessian, damping)
    factor = inverse_factor(safe)
    stored = xp.reshape(mask_at(topology.numel, flat(topology)), weight.shape)
    rest = only_stored(weight, topology)
    scales_of(rest, grid, size)  # QNT-005.7: called for its checks
    # QNT-005.4
    rest = xp.where(dead[None, :], xp.zeros_like(rest), rest)
    # a block has whole groups, so that the scale of a group is computed after all earlier errors were applied
    width = grid.group * max(1, block // grid.group) if grid.group else block
    codes: list[Array] = []
    groups: list[tuple[Array, Array]] = []
    for first in range(0, n_in, width):
        n = min(width, n_in - first)
        mask, u = stored[:, first:], factor[first : first + n, first:]
        panel, errors = rest[:, :n], []
        for i in range(n):
            if (first + i) % size == 0:
                # QNT-005.2
                groups.append(scales_of((panel if grid.group else rest)[:, :size], grid, size))
            if not bool(xp.all(xp.isfinite(panel[:, 0]))):
                raise QuantiseError("QNT-003", "the errors of GPTQ grow without bound; raise damping")
            code, error = _rounded(panel[:, 0], *groups[-1], grid)
            error = error / u[i, i]
            panel = _less(panel[:, 1:], error[:, None] * u[i, i + 1 : n][None, :], mask[:, i + 1 : n])
            codes.append(code)
            errors.append(error)
        rest = _less(rest[:, n:], xp.stack(errors, axis=1) @ u[:, n:], mask[:, n:])
    scales, zeros = (xp.concat(parts, axis=1) for parts in zip(*groups, strict=True))
    return Quantised(grid, topology, at_slots(xp.stack(codes, axis=1), topology), declared(scales), zeros)


def _rounded(column: Array, scale: Array, zero: Array, grid: Grid) -> tuple[Int8[Array, " out"], Float[Array, " out"]]:
    """Return the codes of a column and its rounding errors, both (out,); scale and zero are (out, 1)."""
    xp = array_namespace(column)
    # replace the scale 0 of a group whose weights are all 0, because it cannot divide; with any scale its codes mean 0
    scale, zero = xp.where(scale > 0, scale, xp.ones_like(scale))[:, 0], zero[:, 0]
    code = codes_of(column, scale, zero, grid)
    return code, column - weights_at(code, scale, zero, xp.float64)


def _less(weights: Array, errors: Array, mask: Bool[Array, "out n"]) -> Array:
    """Return weights - errors at stored positions, and 0 elsewhere (QNT-005)."""
    xp = array_namespace(weights)
    return xp.where(mask, weights - errors, xp.zeros_like(weights))
