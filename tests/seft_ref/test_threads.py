"""A run on one and on two threads of the compiled kernels gives the same bits (KRN-008)."""

import numba
import pytest
from threadpoolctl import threadpool_limits

from seft_ref.files.model import load_model
from seft_ref.kernels import cpu
from seft_ref.kernels.cpu import transposed
from seft_ref.text.tokens import read_tokens
from seft_ref.train.loop import finish, initial_state, step_batches, train
from seft_ref.train.settings import settings_of
from tests.seft_ref.folders import BF16, CONFIG, TEXT, sparse_folder
from tests.seft_ref.tiny import digest

WIDE = {**CONFIG, "hidden_size": 96, "intermediate_size": 200, "max_position_embeddings": 128}
SHORT = {"steps": 7, "batch": 5, "length": 70, "density": 0.05, "evolve_every": 3, "lr": 1e-2}


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="this machine runs one thread")
@pytest.mark.parametrize(
    ("kernels", "compact"),
    [(cpu, False), (cpu, True), (transposed, True)],
    ids=["one copy", "compact", "two compact copies"],
)
@pytest.mark.parametrize(
    "changes",
    [{"gradient_window": 2}, {"preset": "spiel-ag", "gradient_window": 1}, {"scope": "row", "grow": "curvature"}],
    ids=["seft", "spiel-ag", "row"],
)
def test_KRN_008_a_run_has_the_same_bits_on_one_and_two_threads(tmp_path, changes, compact, kernels):
    folder = sparse_folder(tmp_path / "model", WIDE, dtype=BF16)
    (tmp_path / "text.txt").write_text(TEXT)
    tokens = read_tokens(tmp_path / "text.txt", folder)
    settings = settings_of(
        changes.get("preset", "seft"), **SHORT, **{k: v for k, v in changes.items() if k != "preset"}
    )
    before, seen = numba.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            numba.set_num_threads(n_threads)
            # dense products are a library's, which promises nothing for another number of its own threads
            with threadpool_limits(1, user_api="blas"):
                model = load_model(folder, kernels, compact=compact)
                first = step_batches(settings, tokens, 1, model.weights)
                state = initial_state(settings, model.config, model.weights, model.bases, kernels, first)
                told = []
                for after, record in train(state, settings, model.config, tokens, kernels):
                    state = after
                    told.append((record.loss, record.gradient_norm, digest(after.targets)))
                final = finish(state, settings, model.config, tokens, kernels)
                told += [values.tobytes() for _, values in final.values()]
            seen.append(told)
    finally:
        numba.set_num_threads(before)
    assert seen[0] == seen[1]
