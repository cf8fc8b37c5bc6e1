"""The model of time and exchange of `benchmarks scale`, against plain sums and the run that decides its constants."""

import json

import pytest

from benchmarks import scale


def test_the_constants_give_back_the_run_that_decides_them():
    constants, run = scale.Constants.of(scale.DECIDES), scale.DECIDES
    size = scale.size_of(run.model)
    assert constants.step(size, run.tokens, recompute=run.recompute) == pytest.approx(run.step)
    assert constants.event(size, run.tokens) == pytest.approx(run.event)
    # 32 blocks of four square matrices and three of the MLP
    assert size.numel == 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert scale.products(size, 10, recompute=False) == 10 * 2 * (size.stored + 32000 * 4096)


@pytest.mark.parametrize("hosts", [1, 2, 5])
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_what_is_sent_is_what_every_pair_of_hosts_exchanges(hosts, tokens):
    size = scale.size_of("135m")
    in_step = in_event = 0.0
    for other in range(1, hosts):
        # a part of each sum goes to each other host, and the sum of one's own part too
        in_step += 2 * size.slots / hosts * 4
        for matrix in size.config.targets():
            n_out, n_in = matrix.shape
            if hosts * tokens * (n_out + n_in) < n_out * n_in:
                in_event += tokens * (n_out + n_in) * 4
            else:
                in_event += 2 * n_out * n_in / hosts * 4
        assert other < hosts
    assert scale.exchanged(size, tokens, hosts) == pytest.approx((in_step, in_event))


def test_the_command_tells_all_models_and_hosts(tmp_path, capsys):
    scale.scale(128, tmp_path / "scale.json")
    told = json.loads((tmp_path / "scale.json").read_text())
    assert [(row["model"], row["hosts"]) for row in told["rows"]] == [
        (model, hosts) for model in ("1b", "7b", "70b") for hosts in scale.HOSTS
    ]
    assert "135m: step" in capsys.readouterr().out
    assert all(row["event"] > row["step"] for row in told["rows"])
