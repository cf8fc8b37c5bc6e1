"""The evidence of an open gradient window of one matrix: sums over its steps (chapter 6), which a state_dict holds.

    update.watch(["gradient", "tokens"])   # backward passes now call `see`
    update.settle()                        # after each step but the last
    update.evidence(steps)                 # the means, by name
    update.unwatch()

A sum has an entry for every position, or only for those where the window keeps it (`KEEPS`). FSDP's sums have every
position, split as the weight is, and 0 where the window keeps nothing.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from seft_ports.pytorch import kernels
from seft_ports.pytorch.decide import check_evidence
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.select import largest
from seft_ports.pytorch.split import add, is_split, mean_of_all, processes, split_as, whole

__all__ = ["KEEPS", "SUMS", "Windowed"]

SUMS = ("gradient", "absolute", "square", "tokens", "inputs")
"""The quantities that a window may sum (chapter 6), each in a buffer that is called sum_ and the name."""
_OF_STEPS = ("gradient", "absolute", "square")
KEEPS = ("all", "support", "first-step")
"""Where a window keeps g, |g| and g²: everywhere; on the support (GRD-009); there and at the candidates of its first
step (GRD-007). The squared gradients of tokens are always kept on the support (GRD-008)."""


class Windowed(nn.Module):
    """A matrix whose backward passes an open window sums up.

    Attributes:
        sum_gradient, sum_absolute, sum_square, sum_tokens: the sums of an open window over its steps, of g, |g|, g²
            and the squared gradients of tokens: (out, in), or one number for each position that is kept; (0,) if the
            rule does not use it.
        sum_inputs: (in + 1,), the sum of x² over all rows, and the number of rows; (0,) if the rule does not use it.
        candidates: (d_φ,) int64 in an open window that keeps `first-step`, the positions that may grow; (0,) else.
        keeps: one of KEEPS.
        watched: whether a backward pass adds to the sums, or goes to an observer.
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
        # the gradient of the running step is kept, because |g| and g² are taken of whole steps (GRD-005)
        self._step: Tensor | None = None
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

    def watch(self, evidence_names: Iterable[str], *, keeps: str = "all") -> None:
        """Open a window if none is open: backward passes then add to its sums.

        evidence_names  which of SUMS
        keeps           one of KEEPS
        """
        evidence_names = frozenset(evidence_names)
        self.watched, self.keeps = True, keeps
        # noted here, because in a backward pass, and after a forward alone, FSDP may have gathered the weight
        self._is_split = is_split(self.like()) or any(is_split(total) for total in self.sums())
        self._asked = tuple(name for name in SUMS if name in evidence_names)
        # a window that was loaded has chosen its candidates
        of_steps = (getattr(self, f"sum_{name}") for name in _OF_STEPS)
        self._has_candidates |= bool(self.candidates.numel()) or any(bool(total.numel()) for total in of_steps)
        for name in self._asked:
            if not (self._chooses and name in _OF_STEPS):
                self._total(name)
                self._fit(name)

    def sums(self) -> list[Tensor]:
        """Return the sums that the window has."""
        totals = [getattr(self, f"sum_{name}") for name in SUMS]
        return [total for total in totals if total.numel()]

    def take_sum(self, name: str, total: Tensor) -> None:
        """Replace a sum of the open window by `total`, which has every position, (out, in)."""
        setattr(self, f"sum_{name}", self._where_kept(name, total).clone())

    def observe(self, observer: Callable[[Tensor, Tensor], None]) -> None:
        """Call `observer` with dy and x of each backward pass, and sum nothing, until `unwatch`."""
        self.watched, self._observer = True, observer

    def see(self, dy: Tensor, x: Tensor) -> None:
        """Add the evidence of one backward pass to the sums, or give it to the observer.

        Sums count the rows of this process only, or of all processes if the sums are split.
        """
        if self._observer is not None:
            self._observer(dy, x)
            return
        of_steps = [name for name in self._asked if name in _OF_STEPS]
        if of_steps:
            kept = self._where_kept(of_steps[0], kernels.whole(dy, x))
            if of_steps == ["gradient"] and self.keeps != "first-step":
                add(self._total("gradient"), kept)
            else:
                if self._step is None:
                    self._step = torch.zeros_like(self._total(of_steps[0]) if self._is_split else kept)
                add(self._step, kept)
        if "tokens" in self._asked:
            # GRD-008: the loss is the mean over N processes, so the gradient of a token is dy x / N. The sum of its
            # squares over all processes is then the mean of dy² x² over them, divided by N once more
            add(self._total("tokens"), self._where_kept("tokens", kernels.tokens(dy, x) / processes()))
        if "inputs" in self._asked:
            # GRD-006
            self.sum_inputs[:-1] += x.to(self.sum_inputs.dtype).square().sum(0)
            self.sum_inputs[-1] += len(x)

    def settle(self) -> None:
        """Add the gradient of the step that ends, its |g| and its g², to the sums of the window."""
        step, self._step = self._step, None
        if step is None:
            return
        step = step if is_split(step) else mean_of_all(step)
        if self._chooses:
            check_evidence([step])
            # GRD-007
            self.candidates = largest(step.abs().flatten(), self.delta_budget)
            self._has_candidates = True
            step = self._where_kept("gradient", step)
        # GRD-004, GRD-005
        for name, term in (("gradient", step), ("absolute", step.abs()), ("square", step * step)):
            if name in self._asked:
                total = self._total(name)
                total += term

    def evidence(self, steps: int, only: Iterable[str] = SUMS) -> dict[str, Tensor]:
        """Return the means of the window by name, over all processes, so that every one makes the same choice.

        They have every position, (out, in), with 0 where the window keeps nothing; `inputs` has (in,).

        steps  the number of steps of the window
        only   the names that are wanted, if the window has them
        """
        self.settle()
        means = {}
        for name in [name for name in self._asked if name in only]:
            total = self._total(name)
            summed = whole(total) if is_split(total) else mean_of_all(total.clone())
            # GRD-006
            means[name] = summed[:-1] / summed[-1] if name == "inputs" else self._spread(name, summed / steps)
        return means

    def unwatch(self, *, forget: bool = True) -> None:
        """Stop adding gradients, and with `forget` clear the sums of the window."""
        self.watched, self._observer = False, None
        if forget:
            self._step, self._asked, self._has_candidates = None, (), False
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
        # TRN-004
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
