"""Layer sets: modules with the same eleven functions; each kernel set names the layer set that goes with it (LYR-018).

    layers = layers_of(kernels)
    y, cache = layers.swiglu_forward(gate, up)

plain        the definition of all results, on any array library
compiled     for NumPy arrays, one pass over an array where `plain` has several

Caches are those of the plain layers, so that a backward of one set takes what a forward of another returned.
"""

import importlib
from functools import cache
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int

from seft_ref.arrays.library import Array
from seft_ref.kernels import KernelSet
from seft_ref.layers.attention import AttentionCache
from seft_ref.layers.cross_entropy import CrossEntropyCache
from seft_ref.layers.rmsnorm import RmsNormCache
from seft_ref.layers.rope import RopeTable
from seft_ref.layers.swiglu import SwigluCache


@runtime_checkable
class LayerSet(Protocol):
    """The functions of a layer set; `plain` says what each returns and refuses."""

    def rmsnorm_forward(
        self, x: Float[Array, "*n C"], weight: Float[Array, " C"], eps: float
    ) -> tuple[Float[Array, "*n C"], RmsNormCache]:
        """Return x scaled to unit mean square and by weight, and the cache (LYR-002)."""

    def rmsnorm_backward(
        self, dy: Float[Array, "*n C"], cache: RmsNormCache
    ) -> tuple[Float[Array, "*n C"], Float[Array, " C"]]:
        """Return (dx, dweight)."""

    def rope_forward(
        self, x: Float[Array, "*heads T D"], table: RopeTable
    ) -> tuple[Float[Array, "*heads T D"], RopeTable]:
        """Return x with every head rotated by the angles of its positions, and the table as the cache (LYR-004)."""

    def rope_backward(self, dy: Float[Array, "*heads T D"], cache: RopeTable) -> Float[Array, "*heads T D"]:
        """Return dx."""

    def swiglu_forward(
        self, gate: Float[Array, "*n F"], up: Float[Array, "*n F"]
    ) -> tuple[Float[Array, "*n F"], SwigluCache]:
        """Return silu(gate) · up, and the cache (LYR-010)."""

    def swiglu_backward(
        self, dy: Float[Array, "*n F"], cache: SwigluCache
    ) -> tuple[Float[Array, "*n F"], Float[Array, "*n F"]]:
        """Return (dgate, dup)."""

    def swiglu_again(self, cache: SwigluCache) -> tuple[Float[Array, "*n F"], SwigluCache]:
        """Return y as the forward gave it, bit for bit, and a cache for the backward."""

    def attention_forward(
        self,
        q: Float[Array, "B H T D"],
        k: Float[Array, "B K S D"],
        v: Float[Array, "B K S D"],
        visible: Bool[Array, "M T S"],
    ) -> tuple[Float[Array, "B H T D"], AttentionCache]:
        """Return the output of attention, and the cache (LYR-007, LYR-009)."""

    def attention_backward(
        self, dy: Float[Array, "B H T D"], cache: AttentionCache
    ) -> tuple[Float[Array, "B H T D"], Float[Array, "B K S D"], Float[Array, "B K S D"]]:
        """Return (dq, dk, dv)."""

    def cross_entropy_forward(
        self, logits: Float[Array, "N V"], targets: Int[Array, " N"], count: int
    ) -> tuple[Float[Array, ""], CrossEntropyCache]:
        """Return the sum of the losses of rows whose target is not −100, divided by count, and the cache (LYR-011)."""

    def cross_entropy_backward(self, dloss: Float[Array, ""], cache: CrossEntropyCache) -> Float[Array, "N V"]:
        """Return dlogits."""


def layers_of(kernels: KernelSet) -> LayerSet:
    """Return the layer set that goes with a kernel set."""
    return _named(kernels.LAYERS)


@cache
def _named(name: str) -> LayerSet:
    # imported late, because `compiled` loads numba
    layers: LayerSet = importlib.import_module(f"seft_ref.layers.{name}")
    return layers
