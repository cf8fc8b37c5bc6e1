"""Evidence as the loop finds it, row block by row block, for whoever has a gradient and two lists of positions."""

from dataclasses import replace

from seft_ref.arrays.library import int64_like, to_numpy
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import Window
from seft_ref.topology.csr import from_flat
from seft_ref.update.delta import Base, new_delta
from seft_ref.update.rules import Rule
from tests.compare import same_bits

PARTS = ("gradient", "scores", "candidates", "candidate_scores", "candidate_gradient")
"""What the evidence of a gradient holds."""


def latest(accumulated):
    """A window of one step, still in its factors."""
    return Window(accumulated.shape, latest=accumulated)


def settled(accumulated, steps=1):
    """A window of so many steps, added up."""
    return Window(accumulated.shape, settled_steps=steps, gradient=accumulated.whole())


def looked(window, base_positions, delta_positions, n, scope="anywhere"):
    """The evidence of a window with n candidates and, as the loop adds, the best one left behind.

    The default rule keeps the scores of candidates; their signed gradients are those that moments seeded asks for,
    which must leave everything else as it was.
    """
    # zeros: no score of this rule looks at weights
    like = window.rows(0, 1).gradient
    base = Base(from_flat(window.shape, base_positions), new_delta(window.shape, base_positions, like).values)
    view = View(window, base, new_delta(window.shape, delta_positions, like))
    n = int64_like([n], like)
    (plain,) = evidence([view], Rule(grow_scope=scope), n)
    (seeded,) = evidence([view], Rule(grow_scope=scope, moments="seeded"), n)
    assert plain.candidate_gradient is None
    for part in ("gradient", "scores", "candidates", "candidate_scores"):
        assert same_bits(to_numpy(getattr(plain, part)), to_numpy(getattr(seeded, part))), part
    if seeded.candidate_gradient is None:
        # nothing to gather from
        assert seeded.candidates.shape[0] == 0
        return replace(plain, candidate_gradient=like[0, :0])
    return replace(plain, candidate_gradient=seeded.candidate_gradient)
