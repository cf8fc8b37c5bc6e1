"""Adapters as methods of training: their factors, the gradients of the factors, and the merged weight (ADP-010).

    adapter = adapter_named("spp", rank=8, alpha=16.0)
    factors = adapter.initial((out, in_), seed=1, matrix=0, like=values)
    gradients = adapter.gradients(gradient, base, factors, kernels)    # by name, as the factors
    topology, values = adapter.merged(base, factors, kernels)

An adapter is a record of its settings; the factors are arrays by name, which the caller keeps and steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float

from seft_ref.adapters.frozen import check_scale
from seft_ref.adapters.lora import Lora, lora_gradients, lora_initial, lora_merge
from seft_ref.adapters.sparsepeft import sparsepeft_change, sparsepeft_gradients
from seft_ref.adapters.spp import BANDS, Spp, check_bands, spp_change, spp_gradients, spp_initial
from seft_ref.arrays.library import Array, array_namespace
from seft_ref.errors import ConfigError
from seft_ref.kernels import KernelSet, Packed
from seft_ref.layers.linear import LowRank, WeightGradient
from seft_ref.topology.csr import Topology, full
from seft_ref.update.delta import Base

Factors = Mapping[str, Array]
"""The trained matrices of an adapter by name: `a` and `b`, or `a` and `c` as one column."""


@runtime_checkable
class Held(Protocol):
    """A base that may be packed; only an adapter that needs its values opens it."""

    def open(self) -> Base:
        """Return topology and values."""


@runtime_checkable
class Adapter(Protocol):
    """The interface of an adapter to a run; every adapter has the settings `rank` and `alpha`."""

    @property
    def rank(self) -> int:
        """Rank of the change; with SPP it only enters the scale."""

    @property
    def alpha(self) -> float:
        """Numerator of the scale alpha / rank."""

    @property
    def repacks(self) -> bool:
        """Whether a run packs the changed weight in place of the base (ADP-010)."""

    @property
    def prunes(self) -> bool:
        """Whether the merged weight is pruned as the base was (ADP-012)."""

    def parameters(self, shape: tuple[int, int]) -> int:
        """Return the number of trained parameters beside a matrix of this shape."""

    def initial(self, shape: tuple[int, int], *, seed: int, matrix: int, like: Array) -> dict[str, Array]:
        """Return factors that change no weight yet, in the dtype and on the device of `like` (ADP-002)."""

    def gradients(self, gradient: WeightGradient, base: Held, factors: Factors, kernels: KernelSet) -> dict[str, Array]:
        """Return the gradient of each factor, from the gradient of the weight that they change."""

    def placed(
        self, base: Held, factors: Factors, kernels: KernelSet, spent: Packed | None
    ) -> tuple[Packed | None, LowRank | None]:
        """Return the packed weight that replaces the base's, None if that stays, and the change beside it, if any.

        spent  a packed matrix that nobody needs any more; its memory is reused if it suffices
        """

    def merged(self, base: Held, factors: Factors, kernels: KernelSet) -> tuple[Topology, Float[Array, " nnz"]]:
        """Return the support of the merged weight, and the weight on it (ADP-004, ADP-008)."""

    def check_shapes(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Refuse matrices that the adapter cannot change (ADP-009)."""


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """LoRA (ADP-001). Training never reads the base, and the merged weight is stored at every position."""

    rank: int = 8
    alpha: float = 16.0

    repacks: ClassVar[bool] = False
    prunes: ClassVar[bool] = False

    def parameters(self, shape: tuple[int, int]) -> int:
        """Return rank · (in + out)."""
        return self.rank * sum(shape)

    def initial(self, shape: tuple[int, int], *, seed: int, matrix: int, like: Array) -> dict[str, Array]:
        """Return the initial A and B by name."""
        factors = lora_initial(shape, rank=self.rank, alpha=self.alpha, seed=seed, matrix=matrix, like=like)
        return {"a": factors.a, "b": factors.b}

    def gradients(self, gradient: WeightGradient, base: Held, factors: Factors, kernels: KernelSet) -> dict[str, Array]:
        """Return dA and dB (ADP-001)."""
        da, db = lora_gradients(gradient, self.lora(factors).change())
        return {"a": da, "b": db}

    def placed(
        self, base: Held, factors: Factors, kernels: KernelSet, spent: Packed | None
    ) -> tuple[Packed | None, LowRank | None]:
        """Return None, because the base stays, and the change s B A beside it."""
        return None, self.lora(factors).change()

    def merged(self, base: Held, factors: Factors, kernels: KernelSet) -> tuple[Topology, Float[Array, " nnz"]]:
        """Return the topology of all positions, and W + s B A (ADP-004)."""
        weight = lora_merge(base.open(), self.lora(factors))
        return full((weight.shape[0], weight.shape[1]), weight), array_namespace(weight).reshape(weight, (-1,))

    def check_shapes(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Refuse nothing: a change of low rank fits every matrix."""

    def lora(self, factors: Factors) -> Lora:
        """Return the factors in the form that the functions of `lora` take."""
        return Lora(factors["a"], factors["b"], self.alpha)


@dataclass(frozen=True, slots=True)
class LoraStarAdapter(LoraAdapter):
    """LoRA*: LoRA whose merged weight is pruned as the base was (ADP-005, ADP-012)."""

    prunes: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class SparsePeftAdapter(LoraAdapter):
    """SparsePEFT: the factors of LoRA, whose change is taken at the stored positions only (ADP-007)."""

    repacks: ClassVar[bool] = True

    def gradients(self, gradient: WeightGradient, base: Held, factors: Factors, kernels: KernelSet) -> dict[str, Array]:
        """Return dA and dB (ADP-007)."""
        da, db = sparsepeft_gradients(gradient, base.open().topology, self.lora(factors), kernels)
        return {"a": da, "b": db}

    def placed(
        self, base: Held, factors: Factors, kernels: KernelSet, spent: Packed | None
    ) -> tuple[Packed | None, LowRank | None]:
        """Return W + D, packed (ADP-010)."""
        return kernels.pack(*self.merged(base, factors, kernels), spent), None

    def merged(self, base: Held, factors: Factors, kernels: KernelSet) -> tuple[Topology, Float[Array, " nnz"]]:
        """Return the base's support, and W + D on it (ADP-008)."""
        opened = base.open()
        return opened.topology, opened.values + sparsepeft_change(opened.topology, self.lora(factors), kernels)


@dataclass(frozen=True, slots=True)
class SppAdapter:
    """SPP: stored weights scaled by one factor for the column and one for the row (ADP-006)."""

    rank: int = 8
    alpha: float = 16.0
    bands: int = BANDS

    repacks: ClassVar[bool] = True
    prunes: ClassVar[bool] = False

    def parameters(self, shape: tuple[int, int]) -> int:
        """Return bands · in + out."""
        return self.bands * shape[1] + shape[0]

    def initial(self, shape: tuple[int, int], *, seed: int, matrix: int, like: Array) -> dict[str, Array]:
        """Return the initial A and c by name; c is one column."""
        settings = {"rank": self.rank, "alpha": self.alpha, "seed": seed, "matrix": matrix, "bands": self.bands}
        factors = spp_initial(shape, **settings, like=like)  # type: ignore[arg-type]
        return {"a": factors.a, "c": factors.c[:, None]}

    def gradients(self, gradient: WeightGradient, base: Held, factors: Factors, kernels: KernelSet) -> dict[str, Array]:
        """Return dA and dc (ADP-006)."""
        da, dc = spp_gradients(gradient, base.open(), self.spp(factors), kernels)
        return {"a": da, "c": dc[:, None]}

    def placed(
        self, base: Held, factors: Factors, kernels: KernelSet, spent: Packed | None
    ) -> tuple[Packed | None, LowRank | None]:
        """Return W + D, packed (ADP-010)."""
        return kernels.pack(*self.merged(base, factors, kernels), spent), None

    def merged(self, base: Held, factors: Factors, kernels: KernelSet) -> tuple[Topology, Float[Array, " nnz"]]:
        """Return the base's support, and W + D on it (ADP-008)."""
        opened = base.open()
        return opened.topology, opened.values + spp_change(opened, self.spp(factors))

    def check_shapes(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Refuse a matrix whose rows do not fall into equal bands (ADP-009)."""
        common = math.gcd(*(n_out for n_out, _ in shapes.values()))
        fits = max(bands for bands in range(1, max(self.bands, 1) + 1) if common % bands == 0)
        for name, (n_out, _) in shapes.items():
            check_bands(self.bands, n_out, name, f"bands {fits} divides those of all matrices")

    def spp(self, factors: Factors) -> Spp:
        """Return the factors in the form that the functions of `spp` take."""
        return Spp(factors["a"], factors["c"][:, 0], self.alpha, self.rank)


ADAPTERS: dict[str, Adapter] = {
    "lora": LoraAdapter(),
    "lora-star": LoraStarAdapter(),
    "sparse-peft": SparsePeftAdapter(),
    "spp": SppAdapter(),
}
"""Each adapter that a run can train, with its default settings (ADP-010)."""


def adapter_named(name: str, **settings: float) -> Adapter:
    """Return an adapter with some of its settings changed.

    Raises:
        ConfigError: ADP-010 for a setting that it does not have; AdapterError ADP-009 for one that gives no scale.
    """
    start = ADAPTERS[name]
    own = settings_of_adapter(start)
    for key in settings:
        if key not in own:
            raise ConfigError("ADP-010", f"{name} has no setting {key}; of its own it has {', '.join(sorted(own))}")
    adapter = type(start)(**(own | settings))
    check_scale(adapter.alpha, adapter.rank)
    return adapter


def name_of_adapter(adapter: Adapter) -> str:
    """Return the name of an adapter."""
    return next(name for name, of in ADAPTERS.items() if type(of) is type(adapter))


def settings_of_adapter(adapter: Adapter) -> dict[str, float]:
    """Return the settings of an adapter by name, in the form that `adapter_named` takes."""
    return {field.name: getattr(adapter, field.name) for field in fields(adapter)}  # type: ignore[arg-type]
