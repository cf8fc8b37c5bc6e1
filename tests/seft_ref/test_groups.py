"""Patterns too wide for masks: held as plain topologies, their groups counted (TOP-005)."""

import numpy as np
import pytest

from seft_ref.errors import TopologyError
from seft_ref.kernels import reference
from seft_ref.topology.csr import flat, from_flat
from seft_ref.topology.groups import in_groups
from seft_ref.topology.nm import NMTopology
from seft_ref.train.loop import finish
from tests.backends import BACKENDS
from tests.seft_ref.tiny import TOKENS, n_of_m_keep, states, tiny_config, tiny_settings

WIDE = tiny_config(hidden_size=64, intermediate_size=128, num_attention_heads=2, head_dim=32, num_hidden_layers=1)


def test_TOP_005_up_to_62_a_group_is_a_mask():
    for width, kind in ((31, True), (62, True), (63, False), (64, False), (124, False)):
        plain = from_flat((2, 124 if 124 % width == 0 else 2 * width), np.array([0, 5, 30]))
        made = in_groups(plain, (3, width))
        assert isinstance(made, NMTopology) == kind
        assert flat(made).tolist() == [0, 5, 30]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("n", [1, 3, 63])
def test_TOP_005_every_group_of_a_wide_pattern_is_counted(name, n):
    backend = BACKENDS[name]
    rng = np.random.default_rng(n)
    for trial in range(30):
        # groups of 64 in rows of 128; every other trial holds one too many somewhere
        sizes = rng.integers(0, n + 1, 6)
        sizes[rng.integers(6)] = n + trial % 2
        groups = [64 * g + np.sort(rng.choice(64, size, replace=False)) for g, size in enumerate(sizes)]
        plain = from_flat((3, 128), backend.array(np.concatenate(groups).astype(np.int64)))
        if trial % 2:
            with pytest.raises(TopologyError, match="TOP-005"):
                in_groups(plain, (n, 64))
        else:
            assert in_groups(plain, (n, 64)) is plain


def test_TOP_005_a_wide_pattern_divides_the_row():
    for positions in ([], [3]):
        with pytest.raises(TopologyError, match="must divide 96"):
            in_groups(from_flat((2, 96), np.array(positions, dtype=np.int64)), (32, 64))
    assert in_groups(from_flat((0, 64), np.array([], dtype=np.int64)), (32, 64)).nnz == 0


@pytest.mark.parametrize("changes", [{}, {"scope": "group"}], ids=["active", "group"])
@pytest.mark.parametrize("pattern", [(32, 64), (5, 64)])
def test_EVT_007_EVT_009_a_wide_pattern_survives_a_run(pattern, changes):
    settings = tiny_settings(pattern=pattern, density=0.02, **changes)
    state, run = states(settings, WIDE, keep=n_of_m_keep(*pattern))
    moved = 0
    for state, record in run:
        moved += record.event["grown"] if record.event else 0
        for target in state.targets.values():
            support = np.union1d(flat(target.base.topology), flat(target.delta.topology))
            assert np.bincount(support // pattern[1]).max() <= pattern[0]
    assert moved > 0
    for topology, _ in finish(state, settings, WIDE, TOKENS, reference).values():
        assert np.bincount(flat(topology) // pattern[1]).max() <= pattern[0]
