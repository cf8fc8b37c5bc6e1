"""Inputs that no port can know, and inputs of every size, find what passes for right without them."""

import math

import numpy as np
import pytest

from conformance.cases.case import load_all
from conformance.cases.ops import OPS, PROFILES
from conformance.command import runner
from conformance.command.listing import sizes
from conformance.judge.harness import Result, Variant, classes_of
from conformance.judge.judgement import PropertyResult, Run, asked_in
from conformance.oracle import layers, select_rng
from conformance.oracle.tape import Var, gradients
from conformance.properties import PROPERTIES, files_convert, run_properties, running
from conformance.properties.draws import Counted, Draw, Many
from conformance.properties.large import BEYOND
from conformance.properties.running import largest_arrays
from conformance.properties.trial import FINITE, Found, Made, Property
from conformance.wrong.mutants.base import ENGINE
from conformance.wrong.nulls.known import FOUND_BY, HONEST, Frozen
from tests.conformance.near import Near

CASES = load_all()
SEED = "5ef7000000000000000000000000c0de"


def asking():
    """Operation -> properties that ask it with inputs drawn from the seed of a run (PRT-018)."""
    return {op: [prop.name for prop in PROPERTIES.values() if op in prop.ops] for op in OPS}


def a_run(op, asked_new, classes=("exact64", "fp32")):
    """A run in which everything passed: the cases of an operation, and a property."""
    cases = [case for case in CASES if case.op == op and classes_of(case, classes)]
    results = [Result(case, ran=2) for case in cases]
    held = PropertyResult("a.property", (), "kernels", examples=9, asked_new=asked_new)
    chosen = dict.fromkeys([case.id for case in cases] + ["a.property"], 0)
    return Run({"name": "a"}, ("kernels",), classes, results, [], {}, chosen, [held])


def test_PRT_018_a_claim_names_what_only_frozen_cases_asked():
    line = a_run("kernel.exceeding", ()).verdict().line
    assert line.startswith("conformant: kernels in exact64, fp32, frozen cases only: kernel.exceeding (")
    half = a_run("kernel.exceeding", ("kernel.exceeding in fp32",))
    assert half.frozen_only() == ["kernel.exceeding in exact64"]
    both = tuple(asked_in("kernel.exceeding", name) for name in ("exact64", "fp32"))
    assert "frozen" not in a_run("kernel.exceeding", both).verdict().line


@pytest.mark.parametrize("op", OPS)
def test_PRT_018_every_operation_has_a_property_that_asks_what_nobody_knows(op):
    names = asking()[op]
    classes = {name for case in CASES if case.op == op for name in classes_of(case, ("bf16", "fp16"))}
    assert names
    assert not classes or OPS[op].kind == "scalar" or any(PROPERTIES[name].reduced for name in names)


class UntilAsked(Made):
    """An example that is made no further once all operations of its property are asked, because inputs may be large."""

    def _run(self, case, port):
        result = super()._run(case, port)
        if {one.op for one in self.cases if not one.refused} >= set(self.prop.ops):
            raise Found
        return result


@pytest.mark.parametrize("name", [p.name for p in PROPERTIES.values() if p.seeded])
def test_PRT_018_examples_of_a_seed_ask_every_operation_that_they_declare(name):
    prop, asked = PROPERTIES[name], set()
    for number in range(prop.seeded):
        example = UntilAsked(prop, Variant(None, "float64"), math.inf)
        try:
            prop.body(Counted(int(SEED[:12], 16), number), example)
        except Found:
            return
        asked |= {case.op for case in example.cases if not case.refused}
    assert asked == set(prop.ops)


def test_PRT_018_what_is_always_the_same_or_refused_shows_nothing_new(tmp_path):
    def body(d, t):
        t.saw("a number")
        scores = np.arange(2.0)
        refused = ["SEL-005"] if d.flag() else []
        given = {"scores": scores, "ids": np.arange(2), "k": 3 if refused else d.integer(0, 2)}
        chosen = np.arange(2 - given["k"], 2) if not refused else None
        t.case("select.largest", given, {"chosen": chosen}, refused=refused)

    prop = Property("select.few", ("SEL-001",), "core", ("select.largest",), ("a number",), "few", body, cost=40)
    only = [Variant(ENGINE, "float32")]
    found = {}
    for examples in (1, 40 * 40):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(PROPERTIES, prop.name, prop)
            (found[examples],) = run_properties(
                only, ["core"], SEED, examples=examples, only=prop.name, artifacts=tmp_path
            )
    # the only random example is the simplest there is, which no seed changes
    assert found[1].asked_new == ()
    assert found[40 * 40].asked_new == ("select.largest in fp32",)


def test_PRT_018_an_operation_with_finitely_many_answers_is_asked_what_it_must_refuse():
    assert FINITE == ("preset.rule",)
    assert "an unknown name" in PROPERTIES["preset.rule"].sees


@pytest.mark.parametrize("op", ["config.describe", "rope.frequencies", "adapter.lora_star", "kernel.store_dense",
                                "gradient.norm", "text.calibration", "prune.sparsegpt"])  # fmt: skip
def test_PRT_018_a_table_of_one_operation_is_found_whatever_else_is_computed(op, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "SHRINKING", 0.0)  # nobody looks at the example
    profile = next(name for name, ops in PROFILES.items() if op in ops)
    rest = tuple(one for one in PROFILES[profile] if one != op)
    port = Frozen("table", PROFILES[profile], rest)
    kinds = ("rule", "layer", "whole", "scalar")
    found = run_properties([Variant(port, "float64", kinds)], [profile], SEED, examples=4, only=asking()[op][0],
                           artifacts=tmp_path, seconds=2.0)  # fmt: skip
    assert [r.status for r in found] == ["failed"]


class Lone:
    """Takes the place of `Child`: a port of one operation, whose frozen answers are all that it knows."""

    def __init__(self, command, timeout):
        self.name = command[-1]
        self.port = Frozen(self.name, (self.name,), ())

    hello, call, end, __enter__, __exit__ = Near.hello, Near.call, Near.end, Near.__enter__, Near.__exit__


@pytest.mark.parametrize("op", OPS)
def test_PRT_018_a_run_of_one_operation_alone_finds_a_table_of_it(op, tmp_path, monkeypatch):
    asked, failures = [], []

    def until_one_fails(*given, only, **more):
        asked.append(only)
        results = [] if failures else run_properties(*given, only=only, **more)
        failures.extend(one for one in results if one.failure)
        return results

    monkeypatch.setattr(running, "SHRINKING", 0.0)  # nobody looks at the example
    monkeypatch.setattr(runner, "Child", Lone)
    monkeypatch.setattr(runner, "run_properties", until_one_fails)
    options = runner.Options(only=(op,), seed=SEED, examples=1)
    verdict = runner.judge(runner.Target.of_class(op), options, artifacts=tmp_path).verdict()
    offered = [name for name in asking()[op] if op in PROFILES[PROPERTIES[name].profile]]
    assert set(offered) <= set(asked)
    assert verdict.failed, f"{verdict.passed} passed, {verdict.failed} failed"


def test_PRT_018_tables_stand_for_every_profile_that_has_more_than_one_operation():
    assert set(HONEST) == set(PROFILES) - {"nm", "kernels", "batches", "compression"}
    assert all(f"table-{profile}" in FOUND_BY for profile in HONEST)


def test_PRT_019_large_arrays_are_asked_of_every_operation_on_arrays():
    large = {op for prop in PROPERTIES.values() if BEYOND in prop.sees for op in prop.ops}
    arrays = {op for op, one in OPS.items() if one.kind in ("rule", "layer")}
    assert arrays - large == set()


def test_operations_on_arrays_and_models_are_asked_beyond_the_tiles_of_programs():
    # programs take up to 512 rows, columns or tokens at once
    whole = [op for op, one in OPS.items() if one.kind != "scalar"]
    assert {op: one for op in whole if (one := sizes()[op]).numbers <= 512} == {}


def test_the_largest_arrays_on_the_page_are_those_that_properties_ask():
    names = ("layer.attention-large", "generate.text-large", "train.batches-large", "change.realign")
    variant = Variant(ENGINE, "float64")
    found = largest_arrays([], variant, names)
    of_page = {op: one for op, one in sizes().items() if one.by in names}
    assert {op: one for op, one in found.items() if op in of_page} == of_page
    assert len(of_page) == 3
    # the examples that hypothesis does not draw count as well
    assert found["change.realign"].by == "change.realign"


def test_the_largest_arrays_of_cases_are_on_the_page():
    of_cases = largest_arrays(load_all(), Variant(ENGINE, "float64"), ())
    assert [op for op, one in of_cases.items() if one.numbers > sizes()[op].numbers] == []


def test_PRT_019_many_numbers_are_those_of_the_counter():
    one, many = Counted(1, 2), Many(Counted(1, 2))
    key = one.integer(0, 2**40)
    want = [select_rng.draw(select_rng.key(key), i) % 10 for i in range(50)]
    assert many.integers(50, 0, 9).tolist() == want
    assert len(set(Many(Counted(3)).subset(2**40, 300).tolist())) == 300


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("is_masked", [False, True])
def test_LYR_007_attention_of_long_rows_is_attention_query_by_query(window, is_masked):
    numbers = np.random.default_rng(7)
    q, dy = (4 * numbers.standard_normal((2, 9, 4, 6)) for _ in range(2))
    # a hidden score far above the visible ones would overflow
    k, v = (numbers.standard_normal((2, 9, 2, 6)) * np.linspace(1, 900, 9)[:, None, None] for _ in range(2))
    mask = numbers.random((2, 9)) > 0.4 if is_masked else None
    if is_masked:
        mask[1, :2] = False
    answers = []
    for attention in (layers.attention, layers.attention_of_long_rows):
        operands = [Var(x) for x in (q, k, v)]
        y = attention(*operands, mask, window)
        answers.append([y.value, *gradients(y, dy, operands)])
    for slow, fast in zip(*answers, strict=True):
        assert np.isfinite(fast).all()
        assert np.max(np.abs(slow - fast)) <= 1e-11 * max(1.0, np.max(np.abs(slow)))


class Highest(Draw):
    """Draws the highest integer, one dtype, and of everything else the first."""

    def __init__(self, dtype):
        self.dtype = dtype

    def drawn(self, n, low, high):
        return [high] * n

    def flag(self, one_in=2):
        return False

    def choice(self, given):
        return self.dtype if self.dtype in given else (5,) if (5,) in given else given[0]


@pytest.mark.parametrize("cast", [None, "F32"])
@pytest.mark.parametrize("dtype", files_convert._DTYPES)
def test_the_largest_bits_that_are_drawn_fit_the_dtype(dtype, cast):
    # 2⁴⁰ as the upper bits of a number of 64 bits was one too many
    if cast is None or dtype in files_convert._FLOATS:
        made = files_convert._tensor(Highest(dtype), cast)
        assert (made.dtype, made.shape) == (dtype, (5,))
