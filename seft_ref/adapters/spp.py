"""SPP: y = x (W + D)ᵀ + bias, where D is W scaled by one factor for the column and one for the row (ADP-006).

D[o, i] = s · A[band of o, i] · c[o] · W[o, i]      the rows o fall into equal bands; each band has a row of A
"""

from dataclasses import dataclass

from jaxtyping import Float, Int

from seft_ref.adapters.frozen import Frozen, check_factors, check_scale, uniform_factor
from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.errors import AdapterError
from seft_ref.kernels import KernelSet
from seft_ref.layers.linear import Linear, LinearCache, WeightGradient, linear_backward, linear_forward
from seft_ref.topology.csr import rows
from seft_ref.update.delta import Base

BANDS = 16
"""Rows of A unless another number is given (ADP-006)."""


@dataclass(frozen=True, slots=True, eq=False)
class Spp:
    """The factors A and c of a change that is proportional to the weight."""

    a: Float[Array, "bands in_"]
    c: Float[Array, " out"]
    alpha: float
    rank: int
    """used in the scale only (ADP-006)"""

    @property
    def scale(self) -> float:
        """The factor alpha / rank of the change."""
        return self.alpha / self.rank

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters, bands · in + out."""
        return int(self.a.shape[0] * self.a.shape[1] + self.c.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class SppCache:
    """Caches of a forward that `spp_backward` needs."""

    linear: LinearCache
    change: LinearCache
    base: Frozen
    spp: Spp


def spp_initial(
    shape: tuple[int, int], *, rank: int, alpha: float, seed: int, matrix: int, like: Array, bands: int = BANDS
) -> Spp:
    """Return factors that change no weight yet, in the dtype and on the device of `like` (ADP-002).

    Raises:
        AdapterError: ADP-009 for a rank or an alpha that gives no scale, or bands that do not divide the rows.
    """
    n_out, n_in = shape
    check_scale(alpha, rank)
    check_bands(bands, n_out)
    zero = array_namespace(like).zeros((n_out,), dtype=like.dtype, device=device(like))
    return Spp(uniform_factor(bands, n_in, seed, matrix, like), zero, alpha, rank)


def spp_forward(
    x: Float[Array, "*n in_"], base: Frozen, spp: Spp, kernels: KernelSet
) -> tuple[Float[Array, "*n out"], SppCache]:
    """Return x (W + D)ᵀ + bias, and the cache (ADP-006).

    Raises:
        AdapterError: ADP-009 if the factors do not fit the base.
    """
    _check(base, spp)
    y, linear = linear_forward(x, base.linear, kernels)
    d = kernels.pack(base.topology, spp_change(base, spp))
    more, change = linear_forward(x, Linear(d), kernels)
    return y + more, SppCache(linear, change, base, spp)


def spp_backward(
    dy: Float[Array, "*n out"], cache: SppCache
) -> tuple[Float[Array, "*n in_"], Float[Array, "bands in_"], Float[Array, " out"]]:
    """Return (dx, da, dc), from the gradient of D at the stored positions (ADP-006)."""
    # forward: y = y + more, more = x @ Dᵀ
    dx, gradient, _ = linear_backward(dy, cache.linear)
    dx_more, _, _ = linear_backward(dy, cache.change)
    return dx + dx_more, *spp_gradients(gradient, cache.base, cache.spp, cache.change.kernels)


def spp_gradients(
    gradient: WeightGradient, base: Frozen | Base, spp: Spp, kernels: KernelSet
) -> tuple[Float[Array, "bands in_"], Float[Array, " out"]]:
    """Return (da, dc), from the factors of the gradient of the weight that they change (ADP-006)."""
    xp = array_namespace(spp.a)
    bands, n_out = spp.a.shape[0], spp.c.shape[0]
    # forward: D = s · A[band] · c · W on the support
    weighted = spp.scale * kernels.sample(gradient.dy, gradient.x, base.topology) * base.values
    stored = kernels.pack(base.topology, weighted)
    band = _band_of_rows(bands, n_out, spp.c)
    number = xp.arange(n_out, dtype=xp.int64, device=device(spp.c))
    # the product has an entry for every band and row; take the entry of each row's own band
    dc = xp.take(xp.reshape(kernels.matmul(spp.a, stored), (-1,)), band * n_out + number)
    is_own = xp.arange(bands, dtype=xp.int64, device=device(spp.c))[:, None] == band[None, :]
    of_band = xp.where(is_own, spp.c[None, :], xp.zeros_like(spp.c)[None, :])
    return kernels.matmul_transposed(of_band, stored), dc


def spp_merge(base: Frozen, spp: Spp) -> Float[Array, " nnz"]:
    """Return the values of W + D on the base's topology (ADP-008).

    Raises:
        AdapterError: ADP-009 if the factors do not fit the base.
    """
    _check(base, spp)
    # ADP-008
    return base.values + spp_change(base, spp)


def spp_change(base: Frozen | Base, spp: Spp) -> Float[Array, " nnz"]:
    """Return s · A[band, i] · c[o] · W[o, i] in slot order (ADP-006)."""
    xp, topology = array_namespace(base.values), base.topology
    row = rows(topology)
    band = xp.take(_band_of_rows(spp.a.shape[0], topology.shape[0], spp.c), row)
    place = band * topology.shape[1] + xp.astype(topology.indices, xp.int64)
    # ADP-006
    return spp.scale * xp.take(xp.reshape(spp.a, (-1,)), place) * xp.take(spp.c, row) * base.values


def _band_of_rows(bands: int, n_out: int, like: Array) -> Int[Array, " out"]:
    """Return the band floor(o / (out / bands)) of each row o."""
    xp = array_namespace(like)
    return xp.arange(n_out, dtype=xp.int64, device=device(like)) // max(n_out // bands, 1)


def _check(base: Frozen, spp: Spp) -> None:
    n_out, n_in = base.topology.shape
    check_scale(spp.alpha, spp.rank)
    check_bands(spp.a.shape[0], n_out)
    check_factors(base, {"a": (spp.a, (spp.a.shape[0], n_in)), "c": (spp.c, (n_out,))})


def check_bands(bands: int, n_out: int, what: str = "the weight", advice: str = "choose a divisor") -> None:
    """Refuse bands that do not divide the rows of `what` (ADP-009)."""
    # ADP-009
    if bands < 1 or n_out % bands:
        raise AdapterError("ADP-009", f"{bands} bands do not divide the {n_out} rows of {what}; {advice}")
