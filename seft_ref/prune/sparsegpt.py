"""SparseGPT: removes the cheapest weights of each block of columns; later columns make up for the errors (PRN-009)."""

from collections.abc import Callable
from functools import partial
from math import inf, prod

from jaxtyping import Bool, Float

from seft_ref.arrays.finite import START_ADVICE
from seft_ref.arrays.library import Array, array_namespace, device, overflow_allowed
from seft_ref.errors import PruneError
from seft_ref.prune.keep import check_groups, keep_n_of_m, keep_of_matrix, removed_count

DAMPING = 0.01
BLOCK = 128

Keep = Callable[[Array], Array]
"""A function from the costs of some columns, in all rows, to the mask of the weights that stay."""


def hessian_of(x: Float[Array, "*batch in_"]) -> Float[Array, "in_ in_"]:
    """Return Σ x xᵀ over all tokens, in float64 (PRN-009)."""
    xp = array_namespace(x)
    rows = xp.astype(xp.reshape(x, (prod(x.shape[:-1]), x.shape[-1])), xp.float64)
    with overflow_allowed():
        return xp.matrix_transpose(rows) @ rows


def sparsegpt(
    weight: Float[Array, "out in_"],
    hessian: Float[Array, "in_ in_"],
    sparsity: float,
    pattern: tuple[int, int] | None = None,
    *,
    damping: float = DAMPING,
    block: int = BLOCK,
) -> tuple[Bool[Array, "out in_"], Float[Array, "out in_"]]:
    """Return which weights stay, and the new weight, +0.0 where one was removed (PRN-009 to PRN-013).

    hessian  Σ x xᵀ over all calibration tokens, in float64
    damping  fraction of the mean diagonal of the Hessian that is added to its diagonal
    block    number of columns of a block
    Raises   PruneError PRN-009 for a hessian or damping that cannot be used, PRN-001, PRN-004, PRN-011, PRN-013;
             SEL-004 for a cost that float64 does not hold
    """
    xp = array_namespace(weight, hessian)
    n_out, n_in = weight.shape
    if block < 1:
        raise PruneError("PRN-011", f"a block of {block} columns, must have at least 1")
    width = block
    if pattern is not None:
        check_groups(n_in, pattern[1])
        # PRN-012: with a pattern the result does not depend on the width, so take whole groups
        width = pattern[1] * max(1, block // pattern[1])
    if not n_in:
        removed_count(sparsity, 0)
        return xp.zeros(weight.shape, dtype=xp.bool, device=device(weight)), weight
    safe, dead = damped(hessian, damping)
    factor = inverse_factor(safe)
    # PRN-009
    rest = xp.where(dead[None, :], xp.zeros_like(weight), weight)
    rest = xp.astype(rest, xp.float64)
    masks, panels = [], []
    for first in range(0, n_in, width):
        n = min(width, n_in - first)
        panel, rest = rest[:, :n], rest[:, n:]
        # PRN-011, PRN-012
        removed = removed_count(sparsity, n_out * n)
        keep: Keep = partial(keep_of_matrix, removed=removed)
        if pattern is not None:
            keep = partial(keep_n_of_m, n=pattern[0], m=pattern[1])
        u = factor[first : first + n, first:]
        mask, panel, errors = _prune_panel(panel, u[:, :n], n if pattern is None else pattern[1], keep)
        # PRN-010: apply the errors to all columns behind the block at once
        rest = rest - errors @ u[:, n:]
        masks.append(mask)
        panels.append(panel)
    return xp.concat(masks, axis=1), _rounded(xp.concat(panels, axis=1), weight)


def inverse_factor(hessian: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return U, upper triangular with Uᵀ U = H⁻¹ (PRN-010); entries below its diagonal are unspecified.

    Raises:
        PruneError: PRN-009 if H is not positive definite.
    """
    xp = array_namespace(hessian)
    # a Cholesky factorisation from the last row to the first gives H = V Vᵀ with V upper triangular, and U = V⁻¹
    try:
        lower = xp.linalg.cholesky(xp.flip(hessian))
    except ValueError:  # NumPy's LinAlgError is a subclass of it
        lower = xp.full_like(hessian, xp.nan)
    # checked for CuPy, which raises no error: it leaves NaN or, in the last row, a finite pivot that is not positive
    if not bool(xp.all(xp.isfinite(lower)) & xp.all(xp.linalg.diagonal(lower) > 0)):
        raise PruneError("PRN-009", "the Hessian is not positive definite; raise damping or calibrate on more tokens")
    return xp.flip(xp.linalg.inv(lower))


def damped(hessian: Float[Array, "n n"], damping: float) -> tuple[Float[Array, "n n"], Bool[Array, " n"]]:
    """Return the damped Hessian, and which inputs are dead (PRN-009)."""
    xp = array_namespace(hessian)
    # PRN-009
    if not 0 <= damping < inf:
        raise PruneError("PRN-009", f"damping is {damping}, must be at least 0 and finite")
    if not bool(xp.all(xp.isfinite(hessian))):
        raise PruneError("PRN-009", f"the calibration activations hold NaN or infinity; {START_ADVICE}")
    diagonal = xp.linalg.diagonal(hessian)
    dead = diagonal == 0
    added = xp.where(dead, xp.ones_like(diagonal), damping * xp.mean(diagonal))
    return hessian + xp.eye(dead.shape[0], dtype=hessian.dtype, device=device(hessian)) * added[None, :], dead


def _prune_panel(
    panel: Float[Array, "out n"], u: Float[Array, "n n"], span: int, keep: Keep
) -> tuple[Bool[Array, "out n"], Float[Array, "out n"], Float[Array, "out n"]]:
    """Return the mask of a block of columns, its new weights, and the errors that later columns make up for.

    u     (n, n), the rows and columns of U that belong to the block
    span  number of columns among which weights are chosen at once
    """
    xp = array_namespace(panel, u)
    diagonal = xp.linalg.diagonal(u)
    masks, columns, errors = [], [], []
    for i in range(u.shape[0]):
        if i % span == 0:
            # PRN-011, PRN-012: the panel begins at column i now
            scale = diagonal[i : i + span]
            masks.append(keep(_costs(panel[:, :span], scale)))
        stays, column = masks[-1][:, i % span], panel[:, 0]
        zero = xp.zeros_like(column)
        # PRN-010
        error = xp.where(stays, zero, column / diagonal[i])
        panel = panel[:, 1:] - error[:, None] * u[i, i + 1 :][None, :]
        columns.append(xp.where(stays, column, zero))
        errors.append(error)
    return xp.concat(masks, axis=1), xp.stack(columns, axis=1), xp.stack(errors, axis=1)


def _costs(weight: Float[Array, "out n"], scale: Float[Array, " n"]) -> Float[Array, "out n"]:
    """Return W² / U_ii² (PRN-011); a cost that overflows is refused where it is ranked (SEL-004)."""
    with overflow_allowed():
        return weight * weight / (scale * scale)[None, :]


def _rounded(new: Float[Array, "out in_"], weight: Float[Array, "out in_"]) -> Float[Array, "out in_"]:
    """Return the new weight in the dtype of the old one (PRN-013)."""
    xp = array_namespace(new)
    # PRN-013
    if not bool(xp.all(xp.abs(new) <= xp.finfo(weight.dtype).max)):
        raise PruneError("PRN-013", f"a compensated weight does not fit {weight.dtype}; raise damping")
    return xp.astype(new, weight.dtype)
