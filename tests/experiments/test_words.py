"""What experiments compute from runs, and the words that they have for it."""

import json
import math

import pytest

from experiments import app, markup, page, statistics, table


def test_statistics_against_an_example_by_hand():
    # 2, 4, 4, 6: mean 4, squares 4 + 0 + 0 + 4 over 3, standard error √(8/3) / 2, t of 3 degrees of freedom 3.1824
    of = statistics.estimate([2.0, 4.0, 4.0, 6.0])
    assert (of.n, of.mean) == (4, 4.0)
    assert of.half_width == pytest.approx(3.1824 * math.sqrt(8 / 3) / 2)
    assert of.excludes_zero
    # differences 1, 2, 3: mean 2, deviation 1, half width 4.3027 / √3 = 2.484, so that 0 lies inside
    between = statistics.paired({0: 11.0, 1: 22.0, 2: 33.0}, {2: 30.0, 0: 10.0, 1: 20.0})
    assert (between.mean, between.half_width) == (2.0, pytest.approx(4.3027 / math.sqrt(3)))
    assert not between.excludes_zero
    assert statistics.estimate([7.0]).half_width is None
    assert not statistics.estimate([7.0]).excludes_zero
    assert not statistics.estimate([0.0, 0.0]).excludes_zero
    for wrong in ([], [0.0] * 31):
        with pytest.raises(ValueError, match="1 to 30"):
            statistics.estimate(wrong)
    with pytest.raises(ValueError, match="paired"):
        statistics.paired({0: 1.0}, {1: 1.0})


def test_a_sentence_a_line_and_none_broken_at_an_abbreviation():
    text = "One of D. E. Knuth's, e.g. `x` vs. Another. *Two* of 1.5 is it? 3 more follow! `four`. "
    lines = ["One of D. E. Knuth's, e.g. `x` vs. Another.", "*Two* of 1.5 is it?", "3 more follow!", "`four`."]
    assert markup.prose(text).splitlines() == lines
    assert markup.bullets([text]).splitlines() == ["- " + lines[0], *("  " + line for line in lines[1:])]


def test_settings_that_the_first_arm_lacks_are_told():
    given = {"a": {"steps": 3, "seed": 0}, "b": {"steps": 3, "slot_warmup": 10, "seed": 0}}
    runs = {arm: {0: {"settings": settings}} for arm, settings in given.items()}
    two = table.Experiment("t", "q", "e", (table.Row("a", "a"), table.Row("b", "b")))
    shared, apart = page.settings_tables(page.Report("n", two, runs, "c", "m", ("t", "v")))
    assert "| `steps` | 3 |" in shared
    assert apart.splitlines()[2:] == ["| a | not given |", "| b | 10 |"]


def test_quantiles_of_t_against_scipy():
    from scipy.stats import t

    found = statistics.T_QUANTILES
    assert found == pytest.approx([t.ppf(0.975, n) for n in range(1, 30)], abs=5e-5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 1.1, 1.2], "The interval excludes 0: in these runs b ended higher, that is worse, than a on average."),
        (
            [-1.0, -1.1, -1.2],
            "The interval excludes 0: in these runs b ended lower, that is better, than a on average.",
        ),
        ([-1.0, 1.0, 0.5], "The interval includes 0: these runs do not tell the two apart."),
        ([1.0], "One run each says nothing about the spread."),
    ],
)
def test_words_claim_no_more_than_the_interval(values, said):
    sentence = page._sentence("b", "a", statistics.estimate(values))
    assert sentence.endswith(said)


@pytest.mark.parametrize(
    ("perplexities", "said"),
    [
        # b is told from a and c by its three seeds, a from c is not
        (
            {"a": [60.0, 61.0, 62.0], "b": [70.0, 71.0, 72.0], "c": [61.0, 60.0, 62.5]},
            (
                "`a` ended lowest, at 61.00 on average. `a` ended below `b`, and the interval "
                "excludes 0. These seeds do not tell `c` from it. Choose among them by what else you need. "
                "Minutes a run, with whatever ran beside: `a` 3.0, `c` 1.0."
            ),
        ),
        (
            {"a": [60.0, 61.0, 62.0], "b": [70.0, 71.0, 72.0], "c": [80.0, 81.0, 82.0]},
            ("`a` ended lowest, at 61.00 on average. `a` ended below `b` and `c`, and the interval excludes 0."),
        ),
        # b is not told from a, but c is from b, though not from a
        (
            {"a": [60.0, 64.0, 59.0], "b": [61.0, 61.5, 62.0], "c": [62.0, 62.6, 63.1]},
            (
                "`a` ended lowest, at 61.00 on average. `b` ended below `c`, and the interval "
                "excludes 0. These seeds do not tell `b` from it. Choose among them by what else you need. "
                "Minutes a run, with whatever ran beside: `a` 3.0, `b` 2.0."
            ),
        ),
        (
            {"a": [61.0], "b": [60.0], "c": [62.0]},
            "`b` ended lowest, at 60.00 on average. With one run each this is no ground for a choice.",
        ),
    ],
    ids=["alike", "apart", "apart from another", "one seed"],
)
def test_advice_leaves_what_another_arm_beats(perplexities, said):
    # steps of 60 seconds: three, two, one
    runs = {
        arm: {
            seed: {"perplexity_after": x, "perplexity_before_last_pass": None, "seconds": [60.0] * n, "events": []}
            for seed, x in enumerate(perplexities[arm])
        }
        for arm, n in (("a", 3), ("b", 2), ("c", 1))
    }
    experiment = table.Experiment("", "", "", tuple(table.Row(arm, arm) for arm in "abc"))
    report = page.Report("", experiment, runs, "", "", ("", ""))
    assert page.advice(report) == [said]


def test_arms_are_known_and_named_once():
    used = {arm for experiment in table.EXPERIMENTS.values() for arm in experiment.arms()}
    assert used == set(table.ARMS)
    settings = [json.dumps(choices, sort_keys=True) for choices in table.ARMS.values()]
    assert len(set(settings)) == len(settings)
    for experiment in table.EXPERIMENTS.values():
        labels = [row.label for row in experiment.rows]
        assert len(set(labels)) == len(labels)
        assert {row.against for row in experiment.rows} <= {None, *labels}
        given = {"pattern": (2, 4)} if experiment.patterned else {}
        for arm in experiment.arms():
            assert experiment.settings(arm, given, 3).seed == 3
            # a window of 5 steps needs events as far apart
            assert experiment.settings(arm, given | app.QUICK, 3).steps == app.QUICK["steps"]
