"""The evidence of an open gradient window of one matrix: means over its steps (chapter 6).

    update.watch(["gradient", "tokens"])   # backward passes now call `see`
    update.settle()                        # after each step but the last
    update.evidence(steps)                 # the means, by name
    update.unwatch()

A window keeps the factors of its backward passes (`blocks`), as long as they are smaller than the sums of g, |g| and g²
that they stand for. Then it has sums. A state_dict holds sums. So do windows of several steps of several processes,
because one process alone may save them, and would lack the factors of the others.

A sum has an entry for every position, or only for those where the window keeps it (`KEEPS`). FSDP's sums have every
position, split as the weight is, and 0 where the window keeps nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from seft_ports.pytorch import blocks, kernels
from seft_ports.pytorch.decide import check_evidence
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.padding import Padding
from seft_ports.pytorch.select import largest
from seft_ports.pytorch.split import add, all_true, is_split, mean_of_all, processes, split_as, whole

__all__ = ["KEEPS", "SECOND_BACKWARD", "SUMS", "Windowed"]

SUMS = ("gradient", "absolute", "square", "tokens", "inputs")
"""The quantities that a window may sum (chapter 6), each in a buffer that is called sum_ and the name."""
_OF_STEPS = ("gradient", "absolute", "square")
KEEPS = ("all", "support", "first-step")
"""Where a window keeps g, |g| and g²: everywhere; on the support (GRD-009); there and at the candidates of its first
step (GRD-007). The squared gradients of tokens are always kept on the support (GRD-008)."""
SECOND_BACKWARD = "the step has a second backward, and Evolution was told of one; give it the number as micro_batches"
"""The error message of TRN-002 for a step whose only backward has decided something already."""


class Windowed(nn.Module):
    """A matrix whose backward passes an open window sums up.

    Attributes:
        sum_gradient, sum_absolute, sum_square, sum_tokens: the sums of an open window over its steps, of g, |g|, g²
            and the squared gradients of tokens: (out, in), or one number for each position that is kept; (0,) if the
            rule does not use it.
        sum_inputs: (in + 1,), the sum of x² over all rows, and the number of rows; (0,) if the rule does not use it.
        candidates: (d_φ,) int64 in an open window that keeps `first-step`, the positions that may grow; (0,) else.
        keeps: one of KEEPS.
        watched: whether a backward pass adds to the window, or goes to an observer.
        padding: notes which rows of a batch are padding.
        has_evidence: whether the window has seen a backward pass, or was loaded.
    """

    candidates: Tensor
    out_features: int
    in_features: int
    delta_budget: int

    def __init__(self, kind: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.watched, self.keeps, self._has_candidates, self._is_split = False, "all", False, False
        # the names keep the order of SUMS, because all processes must add the sums up in the same order
        self._asked: tuple[str, ...] = ()
        self._observer: Callable[[Tensor, Tensor], None] | None = None
        self.padding = Padding()
        # the gradient of the running step is kept, because |g| and g² are taken of whole steps (GRD-005)
        self._step: Tensor | None = None
        self._collected = blocks.Collected()  # empty if the window has sums
        # entries of the sums that the factors stand for
        self._limit = 0
        self._one_backward = self._one_step = self._is_closed = False
        # whether a step of the window has ended
        self.has_evidence = self._settled = False
        # what went wrong when a backward pass was to choose the candidates
        self._error: SeftError | None = None
        # empty buffers are in the state_dict, too, because FSDP loads only names that it has
        for name in SUMS:
            self.register_buffer(f"sum_{name}", torch.zeros(0, dtype=kind, device=device))
        self.register_buffer("candidates", torch.zeros(0, dtype=torch.int64, device=device))

    def like(self) -> Tensor:
        """Return the weight as the model holds it, (out, in), which FSDP may split."""
        raise NotImplementedError

    def support(self) -> Tensor:
        """Return S, the stored positions of base and delta, as booleans, (out, in)."""
        raise NotImplementedError

    def watch(
        self, evidence_names: Iterable[str], *, keeps: str = "all", one_backward: bool = False, one_step: bool = False
    ) -> None:
        """Open a window if none is open: backward passes then add to it.

        evidence_names  which of SUMS
        keeps           one of KEEPS
        one_backward    whether every step has one backward pass, which may choose candidates at once
        one_step        whether the window is one step, whose `factors` several processes may take, too
        """
        evidence_names = frozenset(evidence_names)
        if keeps == "first-step":
            self._choose_late()
        # a step that was broken off counts once when it is begun again
        self._step, self._is_closed, self._error = None, False, None
        self._collected.steps[-1].clear()
        self.watched, self.keeps, self._one_backward, self._one_step = True, keeps, one_backward, one_step
        # noted here, because in a backward pass, and after a forward alone, FSDP may have gathered the weight
        self._is_split = is_split(self.like()) or any(is_split(total) for total in self.sums())
        self.has_evidence |= not self._asked and bool(self.sums())
        self._asked = tuple(name for name in SUMS if name in evidence_names)
        # a window that was loaded has chosen its candidates
        of_steps = (getattr(self, f"sum_{name}") for name in _OF_STEPS)
        self._has_candidates |= bool(self.candidates.numel()) or any(bool(total.numel()) for total in of_steps)
        of_gradients = [name for name in self._asked if name in _OF_STEPS]
        # sums of several processes are made at once, because all must add them up in the same order
        later = of_gradients if self._chooses or self._may_collect else []
        for name in self._asked:
            if name not in later:
                self._total(name)
                self._fit(name)
        n_sums = 1 if self._chooses else len(later)
        self._limit = prod(self._shape(later[0])) * n_sums if later else 0

    def sums(self) -> list[Tensor]:
        """Return the sums that the window has."""
        return [total for name in SUMS if (total := getattr(self, f"sum_{name}")).numel()]

    @property
    def has_window(self) -> bool:
        """Whether a window is open, or was loaded."""
        return bool(self._asked or self.sums())

    def factors(self) -> blocks.Factors:
        """Return the factors of a window of one step, before it is settled; none if a process has sums instead.

        The others then sum up, too. Every process must call this for the same updates in the same order.
        """
        factors = self._collected.steps[0] if len(self._collected.steps) == 1 else []
        if processes() > 1 and not all_true([self.candidates.new_tensor(len(factors))], everywhere=True):
            self._take_sums()
            return []
        return factors

    def take_sum(self, name: str, total: Tensor) -> None:
        """Replace a sum of the open window by `total`, which has every position, (out, in)."""
        setattr(self, f"sum_{name}", self._where_kept(name, total).clone())

    def observe(self, observer: Callable[[Tensor, Tensor], None]) -> None:
        """Call `observer` with dy and x of each backward pass, and sum nothing, until `unwatch`."""
        self.watched, self._observer = True, observer

    def see(self, dy: Tensor, x: Tensor) -> None:
        """Add the evidence of one backward pass to the window, or give it to the observer.

        Sums count the rows of this process only, or of all processes if the sums are split.

        Raises:
            SeftError: TRN-002 for a second backward of a step of which `watch` was told that it has one.
        """
        if self._observer is not None:
            self._observer(dy, x)
            return
        if self._is_closed:
            raise SeftError("TRN-002", SECOND_BACKWARD)
        self.has_evidence = True
        of_steps = [name for name in self._asked if name in _OF_STEPS]
        if of_steps and self._may_collect:
            # dy is copied, because whoever gave it to backward may write to it afterwards
            self._collect(dy.detach().clone(), x.detach())
        elif of_steps:
            kept = self._entries(of_steps[0], [(dy, x)])
            if self._adds_backwards:
                add(self._total("gradient"), kept)
            else:
                if self._step is None:
                    self._step = torch.zeros_like(self._total(of_steps[0]) if self._is_split else kept)
                add(self._step, kept)
        if "tokens" in self._asked:
            # GRD-008: the loss is the mean over N processes, so the gradient of a token is dy x / N. The sum of its
            # squares over all processes is then the mean of dy² x² over them, divided by N once more
            add(self._total("tokens"), self._entries("tokens", [(dy, x)]) / processes())
        if "inputs" in self._asked:
            self.padding.add_squares(self.sum_inputs, x)

    def settle(self) -> None:
        """End a step: add its gradient, its |g| and its g² to the sums of the window, or keep its factors."""
        self._is_closed, self._settled = False, True
        if self._error is not None:
            raise self._error
        if self._collected.steps[-1]:
            limit = torch.finfo(self.sum_gradient.dtype).max
            if self._chooses:
                self._choose(self._collected.steps[-1])
            elif self._collected.may_overflow(limit, squared="square" in self._asked):
                # TRN-007: whoever checks the sums of each step is to see them
                self._take_sums()
            else:
                self._collected.end_step()
        step, self._step = self._step, None
        if step is None:
            return
        step = step if is_split(step) else mean_of_all(step)
        if self._chooses:
            check_evidence([step])
            self.candidates, self._has_candidates = largest(step.abs().flatten(), self.delta_budget), True
            step = self._where_kept("gradient", step)
        self._add_step(step)

    def _add_step(self, gradient: Tensor) -> None:
        """Add the gradient of a step, where it is kept, to the sums of the window."""
        for name, term in blocks.terms(gradient, self._asked):
            total = self._total(name)
            total += term

    @property
    def _may_collect(self) -> bool:
        """Whether the window keeps factors: of one process or one step, and as long as there is no sum."""
        has_sum = self._step is not None or any(getattr(self, f"sum_{name}").numel() for name in _OF_STEPS)
        return not (has_sum or self._is_split) and (self._one_step or processes() == 1)

    def _collect(self, dy: Tensor, x: Tensor) -> None:
        """Keep the factors of a backward pass, or sum the gradients if all factors are larger than the sums."""
        self._collected.add(dy, x)
        if self._collected.numel() < self._limit:
            return
        if not (self._chooses and self._one_backward):
            self._take_sums()
            return
        self._is_closed = True
        try:
            self._choose(self._collected.steps[-1])
        except SeftError as error:
            # raised where the step ends, because other checks of the step come first
            self._error = error

    def _choose(self, factors: blocks.Factors) -> None:
        """Choose the candidates by the factors of the first step, and begin the sums (GRD-007)."""
        self._collected = blocks.Collected()
        self.candidates = blocks.largest_of(factors, self.delta_budget)
        self._has_candidates = True
        self._add_step(self._entries("gradient", factors))

    def _choose_late(self) -> None:
        """Choose the candidates by a first step that kept all positions, as it chose the first slots too (GRD-007)."""
        if self.watched and self.keeps == "all":
            self._take_sums()
        if tuple(self.sum_gradient.shape) == self._everywhere and not self.candidates.numel():
            self.candidates = largest(whole(self.sum_gradient).abs().flatten(), self.delta_budget)
            self._has_candidates = True

    @property
    def _adds_backwards(self) -> bool:
        """Whether a sum of g gets each backward pass at once, because nothing needs the gradient of a step."""
        return self.keeps != "first-step" and not {"absolute", "square"} & set(self._asked)

    def _take_sums(self) -> None:
        """Replace the factors of the window by the sums that they stand for."""
        *steps, running = self._collected.steps
        self._collected = blocks.Collected()
        for factors in self._together([*steps, running] if self._adds_backwards else steps):
            self._add_step(self._entries("gradient", factors))
        if running and not self._adds_backwards:
            self._step = self._entries("gradient", running)

    def _together(self, steps: list[list[tuple[Tensor, Tensor]]]) -> Iterator[blocks.Factors]:
        """Yield factors in the groups whose gradients `see` would add to the sums at once, so that the bits agree."""
        for factors in steps:
            if self._adds_backwards:
                yield from ([one] for one in factors)
            elif factors:
                yield factors

    def _totals(self) -> dict[str, Tensor]:
        """Return the sums that the factors of settled steps stand for, by name, where they are kept."""
        totals: dict[str, Tensor] = {}
        for factors in self._together(self._collected.steps[:-1]):
            for name, term in blocks.terms(self._entries("gradient", factors), self._asked):
                totals[name] = totals[name] + term if name in totals else term
        return totals

    def evidence(self, steps: int, only: Iterable[str] = SUMS) -> dict[str, Tensor]:
        """Return the means of the window by name, over all processes, so that every one makes the same choice.

        They have every position, (out, in), with 0 where the window keeps nothing; `inputs` has (in,).

        steps  the number of steps of the window
        only   the names that are wanted, if the window has them
        """
        self.settle()
        means, totals = {}, self._totals()
        for name in [name for name in self._asked if name in only]:
            total = totals.pop(name) if name in totals else self._total(name).clone()
            summed = whole(total) if is_split(total) else mean_of_all(total)
            # GRD-006
            means[name] = summed[:-1] / summed[-1] if name == "inputs" else self._spread(name, summed / steps)
        return means

    def unwatch(self, *, forget: bool = True) -> None:
        """Stop adding gradients, and with `forget` clear the sums of the window."""
        self.watched, self._observer = False, None
        if forget:
            self._step, self._asked, self._has_candidates = None, (), False
            self._collected, self._error = blocks.Collected(), None
            self._is_closed = self.has_evidence = self._settled = False
            for name in SUMS:
                total = getattr(self, f"sum_{name}")
                setattr(self, f"sum_{name}", torch.zeros(0, dtype=total.dtype, device=self.candidates.device))
            self.candidates = self.candidates[:0].clone()

    @property
    def _chooses(self) -> bool:
        """Whether the next step that is settled chooses the candidates."""
        return self.keeps == "first-step" and not self._has_candidates

    def _total(self, name: str) -> Tensor:
        """Return a sum of the window; a new one is 0."""
        total: Tensor = getattr(self, f"sum_{name}")
        if not total.numel():
            total = total.new_zeros(self._shape(name))
        if name != "inputs" and self._is_split and not is_split(total):
            # sums are split here, too, because a checkpoint loads them whole
            total = split_as(self.like(), total)
        setattr(self, f"sum_{name}", total)
        return total

    def _fit(self, name: str) -> None:
        """Cut a sum that has every position to those where the window keeps it.

        A saved state has such a sum if FSDP had split it, or if an earlier version wrote it.
        """
        total, shape = getattr(self, f"sum_{name}"), self._shape(name)
        if tuple(total.shape) == shape:
            return
        at = self._kept_at(name)
        if at is None or tuple(total.shape) != self._everywhere:
            raise SeftError(
                "TRN-004",
                "the saved sums of an open gradient window fit no run of these settings on these processes; "
                "resume from a checkpoint outside windows",
            )
        setattr(self, f"sum_{name}", total.reshape(-1)[at])

    @property
    def _everywhere(self) -> tuple[int, int]:
        """The shape of a sum that has every position."""
        return self.out_features, self.in_features

    def _shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a sum."""
        if name == "inputs":
            return (self.in_features + 1,)
        at = self._kept_at(name)
        return self._everywhere if at is None else tuple(at.shape)

    def _kept_at(self, name: str) -> Tensor | None:
        """Return the flat positions where a sum is kept; None if it has all."""
        everywhere = name in _OF_STEPS and (self.keeps == "all" or self._chooses)
        if everywhere or self._is_split:
            return None
        kept = self.support()
        if name in _OF_STEPS:
            kept.view(-1)[self.candidates] = True
        return torch.nonzero(kept.view(-1)).flatten()

    def _entries(self, name: str, factors: blocks.Factors) -> Tensor:
        """Return the gradient of factors, or for tokens their squared gradients, where the sum `name` is kept."""
        product, at = (kernels.tokens if name == "tokens" else kernels.whole), self._kept_at(name)
        if at is not None:
            return blocks.entries(product, factors, at)
        return self._where_kept(name, blocks.summed(product, factors).view(self._everywhere))

    def _where_kept(self, name: str, new: Tensor) -> Tensor:
        """Return `new`, (out, in), where a sum is kept; for a split sum with 0 elsewhere."""
        at = self._kept_at(name)
        if at is not None:
            return new.reshape(-1)[at]
        return new if name in _OF_STEPS and self.keeps != "support" else torch.where(self.support(), new, 0)

    def _spread(self, name: str, kept: Tensor) -> Tensor:
        """Return a sum with every position, (out, in), and 0 where it is not kept."""
        at = self._kept_at(name)
        if at is None:
            return kept
        spread = kept.new_zeros(self.out_features * self.in_features)
        spread[at] = kept
        return spread.view(self._everywhere)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Windowed":  # noqa: FBT001, FBT002, torch's own
        """Move to another device or dtype, with the factors of an open window."""
        self._collected.move(fn)
        super()._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:  # noqa: FBT001, torch's own
        self._take_sums()
        for name in self._asked if self._settled and not self._chooses else ():
            self._total(name)
        super()._save_to_state_dict(destination, prefix, keep_vars)
