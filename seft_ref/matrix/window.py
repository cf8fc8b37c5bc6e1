"""Sums up the gradients of one matrix over the steps of a window (chapter 6).

    window = Window(shape, rule.asks())
    step = window.fresh()
    step = step.plus(gradient)                   # for every micro-batch of this rank
    window = window.joined(step, ranks)          # after the last micro-batch, on every rank
    window = window.settled()                    # after a step that has no event

A gradient stays in its factors dy and x while the window holds one step and they are smaller than the matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, Self, runtime_checkable

from jaxtyping import Float, Int

from seft_ref.arrays.finite import refuse_spoilt_sums
from seft_ref.arrays.library import Array, array_namespace, device
from seft_ref.arrays.ranks import Ranks
from seft_ref.arrays.sorted import seek
from seft_ref.kernels import KernelSet
from seft_ref.kernels import reference as definition
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix.bases import AnyBase, PackedBase
from seft_ref.topology.csr import Topology, flat, from_flat, union
from seft_ref.update.criteria import Known
from seft_ref.update.evidence import refuse_infinite
from seft_ref.update.select import largest

GRADIENT_ONLY = frozenset({"gradient"})
OF_GRADIENTS = frozenset({"gradient", "absolute", "square"})
"""Kinds of evidence that have an entry for every position of a matrix."""


@dataclass(frozen=True, slots=True, eq=False)
class Accumulated:
    """The gradient of a matrix summed over micro-batches: as factors while they are smaller, else as one matrix."""

    shape: tuple[int, int]
    factors: tuple[WeightGradient, ...] = ()
    dense: Float[Array, "out in_"] | None = None

    def plus(self, gradient: WeightGradient) -> "Accumulated":
        """Return the sum with one more gradient (GRD-001)."""
        factors = (*self.factors, gradient)
        if _smaller(factors, self.shape):
            return Accumulated(self.shape, factors, self.dense)
        return Accumulated(self.shape, (), self._rows_of(factors, 0, self.shape[0]))

    def rows(self, start: int, stop: int) -> Float[Array, "rows in_"]:
        """Return rows start to stop of the gradient."""
        return self._rows_of(self.factors, start, stop)

    def at(self, topology: Topology, kernels: KernelSet) -> Float[Array, " nnz"]:
        """Return the gradient at the slots of a topology (GRD-002)."""
        total = None
        if self.dense is not None:
            xp = array_namespace(self.dense)
            total = xp.take(xp.reshape(self.dense, (-1,)), flat(topology))
        for f in self.factors:
            part = kernels.sample(f.dy, f.x, topology)
            total = part if total is None else total + part
        return total

    def whole(self) -> Float[Array, "out in_"]:
        """Return the whole gradient."""
        return self.rows(0, self.shape[0])

    def over(self, ranks: Ranks) -> "Accumulated":
        """Return the sum over all ranks, the same on each rank (TRN-013).

        It keeps the factors of all ranks while they are smaller than the matrix.
        """
        if ranks.size == 1 or (self.dense is None and not self.factors):
            return self
        n_out, n_in = self.shape
        # ask all ranks, because each must make the same choice, and one of them may hold a dense sum
        answers = ranks.every(None if self.dense is not None else sum(f.x.shape[0] for f in self.factors))
        n_rows = [n for n in answers if n is not None]
        if len(n_rows) < len(answers) or sum(n_rows) * (n_out + n_in) >= n_out * n_in:
            return Accumulated(self.shape, (), ranks.sum(self.whole()))
        xp = array_namespace(self.factors[0].dy)
        dy, x = (ranks.join(xp.concat(parts)) for parts in ([f.dy for f in self.factors], [f.x for f in self.factors]))
        return Accumulated(self.shape, (WeightGradient(dy, x),))

    def _rows_of(self, factors: tuple[WeightGradient, ...], start: int, stop: int) -> Array:
        total = None if self.dense is None else self.dense[start:stop, :]
        for f in factors:
            xp = array_namespace(f.dy)
            part = xp.matrix_transpose(f.dy[:, start:stop]) @ f.x
            total = part if total is None else total + part
        return total


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
    """The sums over the steps of a window from which its evidence follows (GRD-004 to GRD-006).

    The gradient of the latest step stays apart until `settled` adds it, because |g| and g² are of whole steps.
    """

    shape: tuple[int, int]
    asked: frozenset[str] = GRADIENT_ONLY
    """the kinds of evidence that are summed"""
    settled_steps: int = 0
    latest: Accumulated | None = None
    gradient: Float[Array, "out in_"] | None = None
    """Σ g over settled steps, if asked"""
    absolute: Float[Array, "out in_"] | None = None
    """Σ |g|, if asked"""
    square: Float[Array, "out in_"] | None = None
    """Σ g², if asked"""
    support: Callable[[], Topology] | None = None
    """returns the positions of `tokens`; needed if `tokens` is asked for. It is a function, because the supports of all
    matrices together would take as much memory as the weights"""
    tokens: Float[Array, " s"] | None = None
    """Σ dy² x² over all tokens of settled steps, if asked (GRD-008)"""
    latest_tokens: Float[Array, " s"] | None = None
    """Σ dy² x² over those micro-batches of the latest step that are not in `latest_factors`"""
    latest_factors: tuple[WeightGradient, ...] = ()
    """micro-batches of the latest step that `latest_tokens` does not contain yet; kept while smaller than the matrix"""
    input_squares: Float[Array, " in_"] | None = None
    """Σ x² of the layer's inputs over all rows of all steps, if asked"""
    n_inputs: int = 0
    """number of rows in that sum"""

    @property
    def steps(self) -> int:
        """Number of steps in the window, the latest one included."""
        return self.settled_steps + (self.latest is not None)

    def fresh(self) -> "Window":
        """Return an empty window that asks for the same evidence, to which a rank adds its next step."""
        return Window(self.shape, self.asked, support=self.support)

    def joined(self, step: "AnyWindow", ranks: Ranks, kernels: KernelSet = definition) -> "Window":
        """Return this window with one more step, which is first summed over all ranks (TRN-013)."""
        assert isinstance(step, Window)
        assert step.latest is not None, "the step holds no micro-batch"
        tokens, factors = step.latest_tokens, step.latest_factors
        if "tokens" in self.asked and ranks.size > 1:
            tokens, factors = ranks.sum(step._of_latest_tokens(kernels)), ()
        joined = replace(self, latest=step.latest.over(ranks), latest_tokens=tokens, latest_factors=factors)
        if "inputs" not in self.asked:
            return joined
        squares = ranks.sum(step.input_squares)
        if self.input_squares is not None:
            squares = self.input_squares + squares
        n_inputs = self.n_inputs + sum(ranks.every(step.n_inputs))
        return replace(joined, input_squares=squares, n_inputs=n_inputs)

    def plus(self, gradient: WeightGradient, kernels: KernelSet = definition) -> "Window":
        """Return the window with one more micro-batch added to the latest step."""
        latest = self.latest or Accumulated(self.shape)
        after = replace(self, latest=latest.plus(gradient) if self.asked & OF_GRADIENTS else latest)
        if "tokens" in self.asked:
            factors = (*self.latest_factors, gradient)
            after = replace(after, latest_factors=factors)
            if not _smaller(factors, self.shape):
                after = replace(after, latest_tokens=after._of_latest_tokens(kernels), latest_factors=())
        if "inputs" not in self.asked:
            return after
        squares = array_namespace(gradient.x).sum(gradient.x * gradient.x, axis=0)
        if self.input_squares is not None:
            squares = self.input_squares + squares
        return replace(after, input_squares=squares, n_inputs=self.n_inputs + gradient.x.shape[0])

    def settled(self, kernels: KernelSet = definition) -> "Window":
        """Return the window with the latest step added to the sums (TRN-004).

        A run that is resumed after this adds the same numbers in the same order.

        Raises:
            UpdateError: TRN-007 for a sum with NaN or infinity.
        """
        if self.latest is None:
            return self
        sums: dict[str, Array] = {}
        if self.asked & OF_GRADIENTS:
            whole = self.latest.whole()
            for name in sorted(self.asked & OF_GRADIENTS):
                term, total = _term(name, whole), getattr(self, name)
                sums[name] = term if total is None else total + term
        if "tokens" in self.asked:
            sums["tokens"] = self._all_tokens(kernels)
        inputs = {} if self.input_squares is None else {"input_squares": self.input_squares}
        refuse_spoilt_sums(sums | inputs)
        return replace(self, settled_steps=self.steps, latest=None, latest_tokens=None, latest_factors=(), **sums)

    def rows(self, start: int, stop: int) -> Known:
        """Return rows start to stop of the means of g, |g| and g² over the steps, if asked (GRD-004, GRD-005)."""
        latest = None
        if self.latest is not None and self.asked & OF_GRADIENTS:
            latest = self.latest.rows(start, stop)
        means: dict[str, Array] = {}
        for name in sorted(self.asked & OF_GRADIENTS):
            total = None if getattr(self, name) is None else getattr(self, name)[start:stop, :]
            if latest is not None:
                term = _term(name, latest)
                total = term if total is None else total + term
            assert total is not None, "the window holds no step"
            means[name] = total if self.steps == 1 else total / self.steps
        return Known(**means)

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

    def _all_tokens(self, kernels: KernelSet, support: Callable[[], Topology] | None = None) -> Float[Array, " s"]:
        if self.latest is None:
            assert self.tokens is not None, "the window holds no step"
            return self.tokens
        latest = self._of_latest_tokens(kernels, support)
        return latest if self.tokens is None else self.tokens + latest

    def _of_latest_tokens(
        self, kernels: KernelSet, support: Callable[[], Topology] | None = None
    ) -> Float[Array, " s"]:
        """Return Σ dy² x² over the tokens of the latest step, by one sampled product for each micro-batch."""
        total = self.latest_tokens
        if self.latest_factors:
            support = support or self.support
            assert support is not None, "tokens are asked for without their support"
            positions = support()
            for f in self.latest_factors:
                part = kernels.sample(f.dy * f.dy, f.x * f.x, positions)
                total = part if total is None else total + part
        assert total is not None, "the step holds no micro-batch"
        return total

    def inputs(self) -> Float[Array, " in_"] | None:
        """Return h, the mean square of the layer's inputs, None if not asked (GRD-006)."""
        return None if self.input_squares is None else self.input_squares / self.n_inputs


@dataclass(frozen=True, slots=True, eq=False)
class FirstStepWindow:
    """A window that keeps gradients only at the strongest positions of its first step, and on the support (GRD-007)."""

    n: int
    """d_φ, the number of candidates"""
    support: Int[Array, " s"]
    """flat positions of B ∪ η, ascending"""
    first: Window
    """the gradient of the first step, until `settled` chooses the candidates from it"""
    settled_steps: int = 0
    candidates: Int[Array, " n"] | None = None
    positions: Int[Array, " p"] | None = None
    """union of candidates and support, ascending"""
    latest: Float[Array, " p"] | None = None
    gradient: Float[Array, " p"] | None = None
    square: Float[Array, " p"] | None = None

    @property
    def steps(self) -> int:
        """Number of steps in the window, the latest one included."""
        return self.settled_steps + (self.latest is not None or self.first.latest is not None)

    def fresh(self) -> "FirstStepWindow":
        """Return this window itself; a rank adds its next step to it, because `latest` keeps that step apart."""
        return self

    def joined(self, step: "AnyWindow", ranks: Ranks, kernels: KernelSet = definition) -> "FirstStepWindow":
        """Return this window with one more step, which is first summed over all ranks (TRN-013)."""
        assert isinstance(step, FirstStepWindow)
        if self.positions is None:
            return replace(self, first=self.first.joined(step.first, ranks))
        return replace(self, latest=ranks.sum(step.latest))

    def plus(self, gradient: WeightGradient, kernels: KernelSet = definition) -> "FirstStepWindow":
        """Return the window with one more micro-batch added to the latest step."""
        if self.positions is None:
            return replace(self, first=self.first.plus(gradient))
        part = kernels.sample(gradient.dy, gradient.x, from_flat(self.first.shape, self.positions))
        return replace(self, latest=part if self.latest is None else self.latest + part)

    def settled(self, kernels: KernelSet = definition) -> "FirstStepWindow":
        """Return the window with the latest step added to the sums (TRN-004); the first step chooses the positions.

        Raises:
            UpdateError: EVT-005 if the gradient of the first step has NaN or infinity, TRN-007 if a sum has.
        """
        if self.first.latest is not None:
            whole = self.first.latest.whole()
            xp = array_namespace(whole)
            everywhere = xp.reshape(whole, (-1,))
            refuse_infinite(everywhere)
            candidates = largest(xp.abs(everywhere), min(self.n, everywhere.shape[0]))
            positions = union(candidates, self.support)
            values = xp.take(everywhere, positions)
            refuse_spoilt_sums({"square": values * values})
            first = Window(self.first.shape)
            return replace(
                self,
                first=first,
                settled_steps=1,
                candidates=candidates,
                positions=positions,
                gradient=values,
                square=values * values,
            )
        if self.latest is None:
            return self
        total, square = self.gradient + self.latest, self.square + self.latest * self.latest
        refuse_spoilt_sums({"gradient": total, "square": square})
        return replace(self, settled_steps=self.steps, latest=None, gradient=total, square=square)


AnyWindow = Window | FirstStepWindow


def opened(base: AnyBase, slots: Topology, evidence_names: frozenset[str]) -> Window:
    """Return an empty window for a matrix with this base and these slots of the delta."""
    support = partial(support_of, base, slots) if "tokens" in evidence_names else None
    return Window(base.shape, evidence_names, support=support)


def support_of(base: AnyBase, slots: Topology) -> Topology:
    """Return B ∪ η as a topology."""
    if isinstance(base, PackedBase) and base.held_in is None and base.slots is slots:
        # this packed matrix stores exactly B ∪ η
        return base.kernels.unpack(base.packed)[0]
    stored = base.topology
    eta = flat(slots)
    before, present = seek(flat(stored), eta)
    extra = eta[~present]
    if not extra.shape[0]:
        return stored
    xp = array_namespace(extra)
    return stored.with_slots(extra, before[~present] + xp.arange(extra.shape[0], dtype=xp.int64, device=device(extra)))


def _smaller(factors: tuple[WeightGradient, ...], shape: tuple[int, int]) -> bool:
    """Return whether the factors take less memory than their product."""
    n_out, n_in = shape
    return sum(f.x.shape[0] for f in factors) * (n_out + n_in) < n_out * n_in


def _term(name: str, gradient: Array) -> Array:
    """Return the term of one step's gradient in the sum `name` (GRD-005)."""
    if name == "absolute":
        return array_namespace(gradient).abs(gradient)
    return gradient * gradient if name == "square" else gradient
