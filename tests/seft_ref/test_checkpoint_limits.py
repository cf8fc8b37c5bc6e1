"""A weight that its file cannot hold stops a run at its step (CKP-010)."""

import numpy as np
import pytest

from seft_ref import initial_state, load_model, settings_of, step_batches, train
from seft_ref.errors import SeftError
from seft_ref.kernels import cpu
from tests.seft_ref.folders import BF16, sparse_folder
from tests.seft_ref.test_checkpoint import tokens_of


@pytest.mark.parametrize("compact", [False, True])
def test_CKP_010_a_weight_that_its_file_does_not_hold_stops_the_run_at_its_step(tmp_path, compact):
    folder = sparse_folder(tmp_path / "s", dtype=np.float16)
    tokens = tokens_of(folder, tmp_path)
    settings = settings_of("static", steps=5, batch=2, length=12, density=0.1, lr=3e4, max_norm=0.0)
    model = load_model(folder, cpu, compact=compact)
    first = step_batches(settings, tokens, 1, model.weights)
    state = initial_state(settings, model.config, model.weights, model.bases, cpu, first)
    run = train(state, settings, model.config, tokens, cpu)
    # Adam moves a slot by about lr: 3e4 and 6e4 fit float16, 9e4 does not
    assert [next(run)[1].step for _ in range(2)] == [1, 2]
    with pytest.raises(SeftError, match=r"step 3 leaves a weight of model.*lower learning rate") as error:
        next(run)
    assert error.value.clause == "CKP-010"


@pytest.mark.parametrize("dtype", [np.float16, BF16, np.float32, np.float64])
def test_CKP_010_the_limit_is_where_rounding_gives_infinity(tmp_path, dtype):
    folder = sparse_folder(tmp_path / "s", dtype=dtype)
    limits = load_model(folder, cpu, "float64").weights.limits
    assert len(limits) == (0 if dtype is np.float64 else 14)
    for limit in set(limits.values()):
        with np.errstate(over="ignore"):
            assert np.isinf(np.float64(limit).astype(dtype))
        # binary64 becomes bfloat16 by way of binary32, which rounds once more
        wide = np.float32 if dtype is BF16 else np.float64
        assert np.isfinite(np.nextafter(wide(limit), wide(0)).astype(dtype))
    assert not load_model(sparse_folder(tmp_path / "plain"), cpu).weights.limits
