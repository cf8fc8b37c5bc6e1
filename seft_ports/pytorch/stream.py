"""Decides an event from the gradient of one step, one block of rows at a time, without keeping the gradient.

`SparseUpdate.watch` keeps the backward passes of a window until its end, or sums of their gradients. If a window is
one step, `Stream` forms the gradient block by block and forgets each block. It keeps the best candidates for growth and
for pruning, and the gradient at the slots: a few numbers for each slot that moves.

It decides as `decide.decide` does, ties included.
"""

import math

import torch
from torch import Tensor

from seft_ports.pytorch import kernels
from seft_ports.pytorch.blocks import Best, Factors, in_blocks, summed
from seft_ports.pytorch.criteria import ADAPT
from seft_ports.pytorch.decide import EVENT_GRADIENT, Decision, norm_of
from seft_ports.pytorch.delta import among
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.select import smallest
from seft_ports.pytorch.split import mean_of_all, processes
from seft_ports.pytorch.update import SparseUpdate
from seft_ports.pytorch.window import SECOND_BACKWARD

__all__ = ["FIRST_GRADIENT", "Stream", "no_gradient"]

FIRST_GRADIENT = (
    "a gradient of the first step, at the weights as loaded, is NaN or infinite; compute in a wider dtype, or look for "
    "a damaged weight"
)
"""The error message of TRN-007 for the gradient that chooses the first positions."""


def no_gradient(update: SparseUpdate) -> SeftError:
    """Return the error of EVT-002 for an update that saw no backward pass before its event."""
    return SeftError(
        "EVT-002",
        f"matrix {update.matrix} has no gradient for its event: before_step was not called, no backward ran, or the "
        f"model reads the weight of list(layers_of(model))[{update.matrix}] without calling that layer; of an adapter "
        "leave it out by exclude_modules",
    )


class Stream:
    """The evidence of one step for one update.

    update  it must keep its slots until `decide`; only their values may change
    grow    how many positions the event may grow, or, for an update without slots, how many are to be placed
    active  whether only stored weights may grow
    adapt   the score by which the event prunes (ADPT-005), or None for a rule whose events never prune
    first   whether first positions are chosen; then only gradients where growth is allowed must be finite
    """

    def __init__(
        self, update: SparseUpdate, grow: int, *, active: bool, adapt: str | None = None, first: bool = False
    ) -> None:
        self._update, self._active, self._first = update, active, first
        like = update.values.detach()
        # two numbers beside each score: the gradient, and whether the base stores the position
        self._grow = Best(grow, 2, like)
        # ADPT-001: an event prunes as many weights as it grows off the base, and those that are above the budget
        # already. Weights that it grows on the base are exempt, but may be among the candidates for pruning. Together
        # the grown ones are at most `grow`
        above = max(0, int(update.support().sum()) - update.budget) if adapt else 0
        # growth on the base alone leaves nothing to prune
        self._adapt, self._prunes = adapt, adapt is not None and (above > 0 or not active)
        self._prune = Best(grow + above if self._prunes else 0, 0, like)
        # positions without a slot that the event may prune, but whose scores are infinite
        self._infinite = [self._prune.positions]
        n = update.slots
        self._gradient, self._seen = (like.new_zeros(n) for _ in range(2))
        self._on_base = torch.zeros(n, dtype=torch.bool, device=like.device)
        self._finite, self._used, self._stored, self._norm = True, False, 0, 0.0

    @torch.no_grad()
    def see(self, dy: Tensor, x: Tensor) -> None:
        """Process the gradient dyᵀ x of a backward pass.

        Raises:
            SeftError: TRN-002 for a second backward of the step.
        """
        if self._used:
            raise SeftError("TRN-002", SECOND_BACKWARD)
        self.take([(dy, x)])

    @torch.no_grad()
    def take(self, factors: Factors) -> None:
        """Process the sum of the gradients dyᵀ x of all backward passes of a step, and their mean over all processes.

        Every process must call this for the same updates in the same order.
        """
        self._used = True
        for first, rows in in_blocks(factors):
            self._look(rows, first)

    def _look(self, factors: Factors, first: int) -> None:
        """Process the rows of the gradient that belong to these columns of dy; first is the first row."""
        update, width = self._update, self._update.in_features
        gradient = mean_of_all(summed(kernels.whole, factors))
        weight, base = update.rows(first, first + gradient.numel() // width)
        weight, base = weight.reshape(-1), base.reshape(-1)
        start = first * width
        at = update.positions[: update.slots]
        begin, end = torch.searchsorted(at, at.new_tensor([start, start + gradient.numel()])).tolist()
        inside = at[begin:end] - start
        self._gradient[begin:end] = gradient[inside]
        self._on_base[begin:end] = base[inside]
        self._stored += int(base.sum())
        # GROW-002
        grows = gradient.abs()
        unread = ~base if self._active else torch.zeros_like(base)
        if not self._first:
            # GRD-009
            unread[inside] = False
        self._check(grows.masked_fill(unread, 0))
        if gradient.dtype == torch.float64 and not (self._active or self._first):
            # EVT-005.2: the norm of float32 is always finite
            self._norm = math.hypot(self._norm, norm_of(gradient))
            self._finite &= math.isfinite(self._norm)
        if not self._finite:
            # NaN and infinity cannot be ranked; `place` and `decide` refuse them
            return
        grows.neg_()
        if self._active:
            grows.masked_fill_(~base, torch.inf)
        grows[inside] = torch.inf
        self._grow.offer(grows, start, gradient, base)
        if self._adapt is None:
            return
        evidence = gradient
        if self._adapt not in ("sensitivity", "magnitude"):
            # GRD-005, GRD-008
            whole = {"absolute": gradient.abs, "fisher": gradient.square}
            if self._adapt != "token-fisher":
                evidence = whole[self._adapt]()
            else:
                # each process took the mean over its own tokens
                evidence = mean_of_all(summed(kernels.tokens, factors) / processes())
                # GRD-008: with any growth the squares of tokens count on the support alone
                unread = ~base
                unread[inside] = False
            self._check(evidence.masked_fill(unread, 0))
        if not self._prunes:
            return
        self._seen[begin:end] = evidence[inside]
        prunes = self._scores(evidence, weight)
        prunes.masked_fill_(~base, 0)
        prunes[inside] = 0
        self._infinite.append(torch.nonzero(~torch.isfinite(prunes)).flatten() + start)
        prunes.masked_fill_(~base, torch.inf)
        prunes[inside] = torch.inf
        self._prune.offer(prunes, start)

    def _scores(self, evidence: Tensor, weight: Tensor) -> Tensor:
        """Return the scores by which the event prunes (ADPT-005)."""
        assert self._adapt is not None
        # ADPT-005
        by_name = dict.fromkeys(("gradient", "absolute", "square", "tokens"), evidence)
        return ADAPT[self._adapt](by_name | {"weight": weight.to(evidence.dtype)})

    def _check(self, evidence: Tensor) -> None:
        """Note whether evidence that is not negative has a NaN or infinite entry (EVT-005, TRN-007)."""
        self._finite &= math.isfinite(float(evidence.max()))

    def place(self) -> tuple[Tensor, Tensor]:
        """Return the first positions of an update without slots, ascending, and the gradient there (DLT-004).

        Raises:
            SeftError: TRN-007 for a gradient with a NaN or infinite entry.
        """
        self._check_used()
        # TRN-007
        if not self._finite:
            raise SeftError("TRN-007", FIRST_GRADIENT)
        return self._grow.positions, self._grow.beside[:, 0]

    def decide(self, n_drop: int) -> Decision:
        """Return the decision of the event after the optimizer's step, without changing anything.

        Raises:
            SeftError: EVT-005 for a NaN or infinite entry in a gradient or in evidence that is computed from it.
        """
        self._check_used()
        if not self._finite:
            # EVT-005
            raise SeftError("EVT-005", EVENT_GRADIENT)
        update, n = self._update, self._update.slots
        at, phi = update.positions[:n], update.values.detach()[:n]
        # DROP-001, GROW-002
        leaving = smallest(phi.abs(), n_drop)
        dropped = at[leaving]
        n_grow = max(0, n_drop + update.delta_budget - n)
        back = leaving[self._on_base[leaving]] if self._active else leaving
        positions, order = torch.cat([self._grow.positions, at[back]]).sort()
        scores = torch.cat([self._grow.scores, -self._gradient[back].abs()])[order]
        on_base = torch.cat([self._grow.beside[:, 1] == 1, self._on_base[back]])[order]
        chosen = smallest(scores, min(n_grow, scores.numel()))
        grown = positions[chosen]
        if not self._prunes:
            return Decision(dropped, grown, grown[:0], grown[:0])
        # GROW-003: a grown position that has a slot was dropped in this event
        new = ~among(at, grown)
        stays = torch.ones(n, dtype=torch.bool, device=at.device)
        stays[leaving] = among(grown, dropped)
        off = int((stays & ~self._on_base).sum()) + int((new & ~on_base[chosen]).sum())
        # ADPT-001
        excess = max(0, self._stored + off - update.budget)
        if not excess:
            # EVT-005.3: no score is ranked
            return Decision(dropped, grown, grown[:0], grown[:0])
        # DROP-002: the weight of a dropped slot becomes b
        base_values = update.held[:n]
        weight = torch.where(stays, (base_values.to(phi.dtype) + phi).to(base_values.dtype), base_values)
        # ADPT-003: new slots are exempt
        infinite = torch.cat(self._infinite)
        candidates = torch.cat([self._prune.positions, infinite])
        scores = torch.cat([self._prune.scores, self._prune.scores.new_full(infinite.shape, torch.inf)])
        others = ~among(grown[new], candidates)
        mine = torch.nonzero(stays | self._on_base).flatten()
        positions, order = torch.cat([candidates[others], at[mine]]).sort()
        scores = torch.cat([scores[others], self._scores(self._seen[mine], weight[mine])])[order]
        # the base stores every candidate without a slot
        stored = torch.cat([torch.ones_like(others[others]), self._on_base[mine]])[order]
        out = smallest(scores, excess)
        return Decision(dropped, grown, positions[out], positions[out][stored[out]])

    def _check_used(self) -> None:
        if not self._used:
            raise no_gradient(self._update)
