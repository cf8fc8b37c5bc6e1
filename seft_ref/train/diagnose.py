"""Warnings of a run (TRN-011): each finding has a name, a likely cause and a remedy.

    watch = Watch(budget=model.stored())
    for step ...: findings = watch.add_step(step, loss); after an event: watch.add_event(step, support)
    findings = watch.end(step, stored)

Nothing here changes a run, and nothing here raises.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BEFORE_EVENT = 5
"""number of steps up to an event whose losses are compared with the loss after it"""
JUMP = 0.05
"""relative rise above the largest of these losses that counts as a jump"""
MEAN_OF = 10
"""number of steps whose mean loss is compared for divergence"""
RISE = 0.2
"""relative rise above the lowest mean that counts as divergence"""


@dataclass(frozen=True, slots=True)
class Finding:
    """A warning: the step that caused it, its name in TRN-011, and a message."""

    step: int
    name: str
    message: str


@dataclass(slots=True)
class Watch:
    """Finds the warnings of a run while it goes on.

    Steps must come in ascending order, an event directly after its step. After a gap, as in a resumed run whose earlier
    steps are not known, the comparisons start anew.
    """

    budget: int
    """weights stored at load, over all matrices"""
    _recent: list[float] = field(default_factory=list)
    _step: int = 0
    _event_step: int | None = None
    _lowest_mean: float | None = None
    _told_of_lowest: bool = False

    def add_step(self, step: int, loss: float) -> list[Finding]:
        """Return the warnings that the loss of a step causes."""
        if step != self._step + 1:
            self._recent, self._lowest_mean, self._told_of_lowest = [], None, False
        findings: list[Finding] = []
        if self._event_step is not None and step == self._event_step + 1:
            findings += _jump(step, loss, self._recent[-BEFORE_EVENT:])
        self._step, self._event_step = step, None
        self._recent = [*self._recent[1 - MEAN_OF :], loss]
        if len(self._recent) == MEAN_OF:
            findings += self._divergence(sum(self._recent) / MEAN_OF)
        return findings

    def add_event(self, step: int, support: int) -> list[Finding]:
        """Return the warnings after an event; `support` is the number of stored weights of all matrices."""
        self._event_step = step
        if support <= self.budget:
            return []
        return [
            Finding(
                step,
                "support-above-target",
                f"the event after step {step} left {support:,} stored weights, {support - self.budget:,} more than the "
                f"target of {self.budget:,}. Likely cause: growth brings weights back and nothing prunes at events "
                "(adapts end or never), or zeros are not counted (counts values). Try a rule that adapts at every "
                "event, such as the preset seft; with adapts end the pass after the last step prunes them.",
            )
        ]

    def end(self, step: int, stored: int) -> list[Finding]:
        """Return the warnings at the end of a run; `stored` is the number of stored weights of all matrices."""
        if stored <= self.budget:
            return []
        return [
            Finding(
                step,
                "denser-at-end",
                f"the run ends with {stored:,} stored weights, {stored - self.budget:,} more than the "
                f"{self.budget:,} at load. Likely cause: the rule never prunes (adapts never, as in spiel-ag "
                "and spiel-ma), or the method is lora, which merges into every position. Compare it with other "
                "results at its own density only, set adapts to always or end, or take lora-star.",
            )
        ]

    def _divergence(self, mean: float) -> list[Finding]:
        # TRN-011: one warning for each lowest mean, however long the loss stays above it
        if self._lowest_mean is None or mean < self._lowest_mean:
            self._lowest_mean, self._told_of_lowest = mean, False
            return []
        if self._told_of_lowest or not mean - self._lowest_mean > RISE * self._lowest_mean:
            return []
        self._told_of_lowest = True
        return [
            Finding(
                self._step,
                "divergence",
                f"the mean loss of the {MEAN_OF} steps up to step {self._step} is {mean:.4g}, "
                f"{_share(mean, self._lowest_mean)} above the lowest such mean, {self._lowest_mean:.4g}. Likely cause: "
                "a learning rate too high for a sparse update, or too little text in a step. Try a third of lr, "
                "warmup_steps, max_norm 1, or more rows a step (batch, micro_batches).",
            )
        ]


def warnings_of(
    losses: Sequence[float],
    events: Sequence[int],
    support: Mapping[int, int],
    budget: int,
    stored_at_end: int | None = None,
) -> list[Finding]:
    """Return the warnings of a whole run, in the order in which a `Watch` gives them (TRN-011).

    Args:
        losses: the losses of steps 1, 2, …
        events: the steps that an event followed.
        support: for each event the stored weights of all matrices after it.
        budget: the stored weights of all matrices at load.
        stored_at_end: the stored weights of all matrices at the end; None while the run goes on.
    """
    watch, after = Watch(budget), frozenset(events)
    findings: list[Finding] = []
    for step, loss in enumerate(losses, start=1):
        findings += watch.add_step(step, loss)
        if step in after:
            findings += watch.add_event(step, support.get(step, 0))
    if stored_at_end is not None:
        findings += watch.end(len(losses), stored_at_end)
    return findings


def _jump(step: int, loss: float, before: Sequence[float]) -> list[Finding]:
    """Return the warning if the loss after an event jumps; none if fewer than BEFORE_EVENT losses precede it."""
    # TRN-011
    if len(before) < BEFORE_EVENT:
        return []
    largest, spread = max(before), max(before) - min(before)
    rise = loss - largest
    if not (rise > spread and rise > JUMP * largest):
        return []
    return [
        Finding(
            step,
            "loss-jump-after-growth",
            f"the loss of step {step} is {loss:.4g}, {_share(loss, largest)} above {largest:.4g}, the largest of the "
            f"{BEFORE_EVENT} steps up to the event after step {step - 1}. New slots change nothing yet in that step, "
            "so the likely cause is what the event took away, dropped changes or pruned weights that mattered, or a "
            "learning rate too high. Try a smaller drop_fraction, a gradient_window of several steps, or a lower lr.",
        )
    ]


def _share(value: float, reference: float) -> str:
    """Return by how much a value exceeds a reference, in percent."""
    return f"{100 * (value - reference) / reference:.3g} %" if reference else "infinitely"
