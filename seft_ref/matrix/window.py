"""Sums up the gradients of one matrix over the steps of a window (chapter 6).

    window = Window(shape, rule.asks())
    step = window.fresh()
    step = step.plus(gradient)                   # for every micro-batch of this rank
    window = window.joined(step, ranks)          # after the last micro-batch, on every rank
    window = window.settled()                    # after a step that has no event

A window keeps its sums at all positions, or on the support alone (GRD-009), or on the support and at the candidates of
its first step (GRD-007).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, Self, runtime_checkable

from jaxtyping import Float, Int

from seft_ref.arrays.finite import refuse_spoilt_sums
from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.arrays.ranks import Ranks
from seft_ref.kernels import KernelSet
from seft_ref.kernels import reference as definition
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix.bases import AnyBase, PackedBase
from seft_ref.matrix.of_step import Accumulated, Sampled
from seft_ref.topology.csr import Topology, flat, from_flat, union
from seft_ref.update.criteria import Known
from seft_ref.update.evidence import refuse_infinite
from seft_ref.update.select import largest

GRADIENT_ONLY = frozenset({"gradient"})
OF_GRADIENTS = frozenset({"gradient", "absolute", "square"})
"""Kinds of evidence that are sums over the gradients of steps."""


@runtime_checkable
class Sums(Protocol):
    """Sums over the gradients of one matrix: a gradient window, or the gradients of an adapter's factors."""

    def fresh(self) -> Self:
        """Return empty sums, to which this rank adds its micro-batches of a step."""

    def plus(self, gradient: WeightGradient, kernels: KernelSet) -> Self:
        """Return the sums with one more micro-batch."""

    def joined(self, step: Self, ranks: Ranks, kernels: KernelSet) -> Self:
        """Return these sums with one more step, which is first summed over all ranks (TRN-013)."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The sums over the steps of a window from which its evidence follows (GRD-004 to GRD-006, GRD-008).

    The gradient of the latest step stays apart until `settled` adds it, because |g| and g² are of whole steps.
    """

    shape: tuple[int, int]
    asked: frozenset[str] = GRADIENT_ONLY
    """the kinds of evidence that are summed"""
    settled_steps: int = 0
    latest: Accumulated | Sampled | None = None
    gradient: Float[Array, "..."] | None = None
    """Σ g over settled steps, if asked; (out, in), or (p,) at the positions of `kept_at`"""
    absolute: Float[Array, "..."] | None = None
    """Σ |g|, if asked; of the same shape"""
    square: Float[Array, "..."] | None = None
    """Σ g², if asked; of the same shape"""
    kept_at: Callable[[], Topology] | None = None
    """returns the positions at which g, |g| and g² are summed; None for all positions (GRD-007, GRD-009)"""
    n_kept: int = 0
    """at least the number of positions of `kept_at`"""
    support: Callable[[], Topology] | None = None
    """returns the positions of `tokens`; `tokens` and candidates of the first step need it. It and `kept_at` are
    functions, because the positions of all matrices together would take as much memory as the weights"""
    tokens: Float[Array, " s"] | None = None
    """Σ dy² x² over all tokens of settled steps, if asked (GRD-008)"""
    latest_tokens: Sampled | None = None
    """Σ dy² x² over the latest step, if asked"""
    input_squares: Float[Array, " in_"] | None = None
    """Σ x² of the layer's inputs over all rows of all steps, if asked"""
    n_inputs: int = 0
    """number of rows in that sum"""

    @property
    def steps(self) -> int:
        """Number of steps in the window, the latest one included."""
        return self.settled_steps + (self.latest is not None)

    @property
    def of_gradients(self) -> list[str]:
        """The kinds of evidence that are sums over the gradients of steps, in alphabetical order."""
        return sorted(self.asked & OF_GRADIENTS)

    def fresh(self) -> "Window":
        """Return an empty window that asks for the same evidence, to which a rank adds its next step."""
        return Window(self.shape, self.asked, kept_at=self.kept_at, n_kept=self.n_kept, support=self.support)

    def joined(self, step: "AnyWindow", ranks: Ranks, kernels: KernelSet = definition) -> "Window":
        """Return this window with one more step, which is first summed over all ranks (TRN-013)."""
        assert isinstance(step, Window)
        assert step.latest is not None, "the step holds no micro-batch"
        in_step = step.latest
        latest = in_step.over(ranks) if isinstance(in_step, Accumulated) else in_step.over(ranks, kernels)
        tokens = None if step.latest_tokens is None else step.latest_tokens.over(ranks, kernels)
        joined = replace(self, latest=latest, latest_tokens=tokens)
        if "inputs" not in self.asked:
            return joined
        squares = ranks.sum(step.input_squares)
        if self.input_squares is not None:
            squares = self.input_squares + squares
        n_inputs = self.n_inputs + sum(ranks.every(step.n_inputs))
        return replace(joined, input_squares=squares, n_inputs=n_inputs)

    def plus(self, gradient: WeightGradient, kernels: KernelSet = definition) -> "Window":
        """Return the window with one more micro-batch added to the latest step."""
        latest = self.latest
        if latest is None:
            latest = Accumulated(self.shape) if self.kept_at is None else Sampled(self.kept_at, self.n_kept)
        if self.of_gradients:
            latest = latest.plus(gradient) if isinstance(latest, Accumulated) else latest.plus(gradient, kernels)
        after = replace(self, latest=latest)
        if "tokens" in self.asked:
            assert self.support is not None, "tokens are asked for without their support"
            # the gradient of the whole matrix keeps the same factors, as long as they are smaller than the matrix
            most = self.shape[0] * self.shape[1] if self.kept_at is None else self.n_kept
            tokens = self.latest_tokens or Sampled(self.support, most, squares=True)
            after = replace(after, latest_tokens=tokens.plus(gradient, kernels))
        if "inputs" not in self.asked:
            return after
        x = gradient.inputs()
        squares = array_namespace(x).sum(x * x, axis=0)
        if self.input_squares is not None:
            squares = self.input_squares + squares
        return replace(after, input_squares=squares, n_inputs=self.n_inputs + x.shape[0])

    def settled(self, kernels: KernelSet = definition) -> "Window":
        """Return the window with the latest step added to the sums (TRN-004).

        A run that is resumed after this adds the same numbers in the same order.

        Raises:
            UpdateError: TRN-007 for a sum with NaN or infinity.
        """
        if self.latest is None:
            return self
        sums: dict[str, Array] = {}
        if self.of_gradients:
            latest = self.latest
            of_step = latest.whole() if isinstance(latest, Accumulated) else latest.at(kernels)
            sums = {name: self._plus_term(name, of_step, getattr(self, name)) for name in self.of_gradients}
        if "tokens" in self.asked:
            sums["tokens"] = self._all_tokens(kernels)
        inputs = {} if self.input_squares is None else {"input_squares": self.input_squares}
        refuse_spoilt_sums(sums | inputs)
        return replace(self, settled_steps=self.steps, latest=None, latest_tokens=None, **sums)

    def rows(self, start: int, stop: int) -> Known:
        """Return rows start to stop of the means of g, |g| and g² over the steps, if asked (GRD-004, GRD-005).

        The window must keep them at all positions.
        """
        of_step = None
        if self.latest is not None and self.of_gradients:
            assert isinstance(self.latest, Accumulated), "the window keeps some positions only"
            of_step = self.latest.rows(start, stop)
        sums = {name: getattr(self, name) for name in self.of_gradients}
        return self._means({n: None if s is None else s[start:stop, :] for n, s in sums.items()}, of_step)

    def at_positions(self, kernels: KernelSet = definition, positions: Callable[[], Topology] | None = None) -> Known:
        """Return the means of g, |g| and g² over the steps, if asked, at the positions of `kept_at`, each (p,).

        positions  returns these positions, if the caller can get them faster than the window
        """
        of_step = None
        if self.latest is not None and self.of_gradients:
            assert isinstance(self.latest, Sampled), "the window keeps all positions"
            of_step = self.latest.at(kernels, positions)
        return self._means({name: getattr(self, name) for name in self.of_gradients}, of_step)

    def of_tokens(
        self, kernels: KernelSet = definition, support: Callable[[], Topology] | None = None
    ) -> Float[Array, " s"] | None:
        """Return the mean over the steps of Σ dy² x² at the positions of the support, None if not asked (GRD-008).

        support  returns the support, if the caller can get it faster than the window; None takes the window's function
        """
        if "tokens" not in self.asked:
            return None
        total = self._all_tokens(kernels, support)
        return total if self.steps == 1 else total / self.steps

    def _means(self, sums: Mapping[str, Array | None], of_step: Array | None) -> Known:
        """Return the means over the steps of sums over the settled ones, with the gradient of the latest step."""
        means = {}
        for name, settled in sums.items():
            total = settled if of_step is None else self._plus_term(name, of_step, settled)
            assert total is not None, "the window holds no step"
            means[name] = total if self.steps == 1 else total / self.steps
        return Known(**means)

    @staticmethod
    def _plus_term(name: str, of_step: Array, total: Array | None) -> Array:
        """Return the sum `name` with the term of one step's gradient (GRD-005)."""
        if name == "absolute":
            of_step = array_namespace(of_step).abs(of_step)
        term = of_step * of_step if name == "square" else of_step
        return term if total is None else total + term

    def _all_tokens(self, kernels: KernelSet, support: Callable[[], Topology] | None = None) -> Float[Array, " s"]:
        if self.latest_tokens is None:
            assert self.tokens is not None, "the window holds no step"
            return self.tokens
        latest = self.latest_tokens.at(kernels, support)
        return latest if self.tokens is None else self.tokens + latest

    def inputs(self) -> Float[Array, " in_"] | None:
        """Return h, the mean square of the layer's inputs, None if not asked (GRD-006)."""
        return None if self.input_squares is None else self.input_squares / self.n_inputs


@dataclass(frozen=True, slots=True, eq=False)
class FirstStepWindow:
    """A window that keeps gradients only at the strongest positions of its first step, and on the support (GRD-007)."""

    n: int
    """d_φ, the number of candidates"""
    window: Window
    """It keeps every position until the first step has chosen the candidates; afterwards these and the support."""
    candidates: Int[Array, " n"] | None = None
    """flat positions, ascending"""

    @staticmethod
    def of(n: int, window: Window, candidates: Int[Array, " n"]) -> "FirstStepWindow":
        """Return a window whose candidates are chosen, with the sums of `window`."""
        # not the window itself, whose latest step would stay in memory
        shape, support = window.shape, window.support
        assert support is not None

        def kept_at() -> Topology:
            return from_flat(shape, union(candidates, flat(support())))

        n_kept = window.n_kept + int(candidates.shape[0])
        return FirstStepWindow(n, replace(window, kept_at=kept_at, n_kept=n_kept), candidates)

    @property
    def steps(self) -> int:
        """Number of steps in the window, the latest one included."""
        return self.window.steps

    def fresh(self) -> "FirstStepWindow":
        """Return an empty window with the same candidates, to which a rank adds its next step."""
        return replace(self, window=self.window.fresh())

    def joined(self, step: "AnyWindow", ranks: Ranks, kernels: KernelSet = definition) -> "FirstStepWindow":
        """Return this window with one more step, which is first summed over all ranks (TRN-013)."""
        assert isinstance(step, FirstStepWindow)
        return replace(self, window=self.window.joined(step.window, ranks, kernels))

    def plus(self, gradient: WeightGradient, kernels: KernelSet = definition) -> "FirstStepWindow":
        """Return the window with one more micro-batch added to the latest step."""
        return replace(self, window=self.window.plus(gradient, kernels))

    def settled(self, kernels: KernelSet = definition) -> "FirstStepWindow":
        """Return the window with the latest step added to the sums (TRN-004); the first step chooses the positions.

        Raises:
            UpdateError: EVT-005 if the gradient of the first step has NaN or infinity, TRN-007 if a sum has.
        """
        chosen = self.chosen()
        return replace(chosen, window=chosen.window.settled(kernels))

    def chosen(self) -> "FirstStepWindow":
        """Return the window with its candidates, which the first step chooses, and the latest step still apart.

        Raises:
            UpdateError: EVT-005 if the gradient of the first step has NaN or infinity.
        """
        window = self.window
        if self.candidates is not None or window.latest is None:
            return self
        assert isinstance(window.latest, Accumulated)
        assert window.support is not None
        whole = window.latest.whole()
        xp = array_namespace(whole)
        everywhere = xp.reshape(whole, (-1,))
        refuse_infinite(everywhere)
        candidates = largest(xp.abs(everywhere), min(self.n, everywhere.shape[0]))
        chosen = FirstStepWindow.of(self.n, window, candidates)
        kept_at = chosen.window.kept_at
        assert kept_at is not None
        first = Sampled(kept_at, chosen.window.n_kept, values=xp.take(everywhere, flat(kept_at())))
        return replace(chosen, window=replace(chosen.window, latest=first))


AnyWindow = Window | FirstStepWindow


def opened(base: AnyBase, slots: Topology, evidence_names: frozenset[str], *, on_support: bool = False) -> Window:
    """Return an empty window for a matrix with this base and these slots of the delta.

    on_support  whether gradients are kept only on the support (GRD-009)
    """
    support = partial(support_of, base, slots)
    kept_at = support if on_support else None
    return Window(base.shape, evidence_names, kept_at=kept_at, n_kept=base.nnz + slots.nnz, support=support)


def support_of(base: AnyBase, slots: Topology) -> Topology:
    """Return B ∪ η as a topology."""
    if isinstance(base, PackedBase) and base.held_in is None and base.slots is slots:
        # this packed matrix stores exactly B ∪ η
        return base.kernels.unpack(base.packed)[0]
    stored = base.topology
    before, present = stored.seek_slots(slots)
    extra = flat(slots)[~present]
    if not extra.shape[0]:
        return stored
    xp = array_namespace(extra)
    return stored.with_slots(extra, before[~present] + xp.arange(extra.shape[0], dtype=xp.int64, device=device(extra)))
