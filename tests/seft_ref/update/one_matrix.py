"""One matrix at an event as drop, grow and adapt take it, for tests of each of them."""

from seft_ref.arrays.library import array_namespace, int64_like
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import Window
from seft_ref.topology.csr import flat
from seft_ref.update.adapt import adapt
from seft_ref.update.criteria import USE_ADAPT, Chance
from seft_ref.update.delta import Base, new_delta
from seft_ref.update.drop import drop
from seft_ref.update.grow import grow
from seft_ref.update.parts import Moved, Part
from seft_ref.update.pools import Pools
from seft_ref.update.rules import Rule
from tests.seft_ref.update.by_hand import Matrix, Slot

NO_CHANCE = Chance(0, 0)


def one_pool(like, budget=0, delta_budget=0):
    """A whole matrix as one pool, with K and d_φ."""
    return Pools(budgets=(int64_like([budget], like),), delta_budgets=(int64_like([delta_budget], like),))


def dropped(library, values, n):
    """The slots that drop takes of a delta with these values, at positions 0, 1, …"""
    values = list(values)
    base, delta = Matrix((1, max(len(values), 1)), {}, {p: Slot(x) for p, x in enumerate(values)}).arrays(library)
    (seen,) = evidence([View(None, base, delta)], Rule(adapts="end"), None)
    (found,), _ = drop([Part(base, delta, seen)], Pools(), library.ints([n]), Rule(), NO_CHANCE)
    return found


def grown(library, seen, base, eta, shape, gone, n, scope="anywhere"):
    """The positions that grow by some evidence after `gone` was dropped, n of them if there are so many."""
    stored = library.topology(shape, base)
    like = library.floats([0.0] * stored.nnz)
    delta = new_delta(shape, library.ints(sorted(eta)), like)
    pools = one_pool(like, delta_budget=n - len(gone) + len(eta))
    part, n_drop = Part(Base(stored, like), delta, seen), library.ints([len(gone)])
    (found,), _ = grow([part], pools, [library.ints(gone)], n_drop, Rule(grow_scope=scope))
    return found


def pruned(library, stored, gradient, excess, **choices):
    """The positions that adapt takes of a base, a dictionary from flat position to value, of which `excess` are too
    many; gradient likewise.
    """
    width = max(stored, default=0) + 1
    base, delta = Matrix((1, width), stored).arrays(library)
    whole = library.floats(gradient.get(p, 0.0) for p in range(width))
    window = Window((1, width), settled_steps=1, gradient=array_namespace(whole).reshape(whole, (1, width)))
    (seen,) = evidence([View(window, base, delta)], Rule(), None)
    nothing = flat(delta.topology)
    pools = one_pool(whole, len(stored) - excess)
    moved = Moved(Part(base, delta, seen), base, delta, nothing, nothing, nothing, nothing)
    (found,), _ = adapt([moved], pools, Rule(**choices), NO_CHANCE, USE_ADAPT)
    return found
