"""Pools of an event against lists: which pool a position is in, how many each holds, and selections in them."""

import numpy as np
import pytest

from seft_ref.arrays.library import to_numpy
from seft_ref.errors import UpdateError
from seft_ref.update.pools import Partition, Pools, pools_of, together
from seft_ref.update.rules import Rule
from tests.seft_ref.update.by_hand import LIBRARIES, library_id, listed

SHAPE = (4, 6)
libraries = pytest.mark.parametrize("library", LIBRARIES, ids=library_id)


@libraries
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("partition", [Partition(), Partition(6, 4), Partition(3, 8)], ids=["one", "rows", "groups"])
def test_SEL_007_a_selection_in_pools_is_one_in_each(library, partition, largest):
    rng = np.random.default_rng(5)
    at = np.flatnonzero(rng.random(24) < 0.7)
    scores = rng.integers(0, 4, at.size)
    pools = at // partition.width if partition.width else at * 0
    assert listed(partition.of(library.ints(at))) == pools.tolist()
    sizes = np.bincount(pools, minlength=partition.n_pools)
    assert listed(partition.sizes([library.ints(at)])) == sizes.tolist()
    counts = [int(rng.integers(0, n + 1)) for n in sizes]
    expected = []
    for pool, k in enumerate(counts):
        own = [i for i in range(at.size) if pools[i] == pool]
        expected += sorted(own, key=lambda i: (-scores[i] if largest else scores[i], i))[:k]
    args = [library.floats(scores)], [library.ints(at)]
    (chosen,), _ = partition.select(*args, library.ints(counts), largest=largest)
    assert listed(chosen) == sorted(expected)
    with pytest.raises(UpdateError, match="SEL-005"):
        partition.select(*args, library.ints(sizes + 1), largest=largest)


@libraries
def test_SEL_007_matrices_in_one_pool_are_one_after_the_other(library):
    scores, at = [[2, 1, 1], [], [1, 0]], [[0, 4, 5], [], [3, 9]]
    found, boundary = Partition().select(
        [library.floats(s) for s in scores], [library.ints(p) for p in at], library.ints([3])
    )
    assert [listed(one) for one in found] == [[1, 2], [], [1]]
    assert (boundary.inside, boundary.outside) == (1.0, 1.0)
    assert listed(Partition().sizes([library.ints(p) for p in at])) == [5]


@libraries
def test_EVT_009_budgets_of_matrices_in_one_pool_are_added(library):
    pools = Pools(budgets=(library.ints([5]), library.ints([2])), delta_budgets=(library.ints([3]), library.ints([1])))
    at = [library.ints([0, 1, 2, 3, 4]), library.ints([])]
    assert listed(pools.growth(library.ints([2]), at)) == [1]
    assert listed(pools.growth(library.ints([0]), at)) == [0]
    assert listed(pools.excess([library.ints([1]), library.ints([9])])) == [3]
    assert listed(pools.excess([library.ints([7]), library.ints([0])])) == [0]


def test_EVT_009_the_pools_of_each_scope():
    one, rows, groups = Partition(), Partition(6, 4), Partition(3, 8)
    expected = {"matrix": (one, one), "model": (one, one), "row": (rows, rows), "group": (one, groups)}
    for scope, (slots, weights) in expected.items():
        pools = pools_of(Rule(scope=scope), SHAPE, (), (), (2, 3))
        assert (pools.slots, pools.weights) == (slots, weights)
        assert pools.caps_growth == (scope == "group")
        assert together(Rule(scope=scope), [1, 2]) == ([[1, 2]] if scope == "model" else [[1], [2]])
    # rows of no columns are pools that hold nothing
    empty = pools_of(Rule(scope="row"), (3, 0), (), ())
    assert to_numpy(empty.slots.sizes([np.zeros(0, dtype=np.int64)])).tolist() == [0, 0, 0]
