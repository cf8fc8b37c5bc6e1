"""Cases of models with two and three layers, whose matrices go beyond the first block (MDL-007)."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

from conformance.gen import tiny, train_presets, train_steps
from conformance.gen.model import tensors_of
from conformance.gen.numbers import Area, Numbers, ids
from conformance.gen.train import GAP
from conformance.gen.train import described as given_run
from conformance.gen.train import run_answer as of_run
from conformance.oracle import event as events
from conformance.oracle import generate, prune, train, update_choices
from conformance.oracle.event_evidence import Evidence
from conformance.oracle.model import Config, Decoder
from conformance.oracle.update import effective

TWO: Config = tiny.CONFIG | {"num_hidden_layers": 2}
THREE: Config = tiny.CONFIG | {"num_hidden_layers": 3}
_DRAWN = {"drop": "random", "grow": "random", "adapt": "random"}

_RUNS: tuple[tuple[str, Config, dict[str, Any], dict[str, Any], str], ...] = (
    ("drawn", TWO, _DRAWN, {"steps": 4, "evolve_every": 2, "start": "random"}, "RNG-003 DLT-004"),
    ("gradient", THREE, {}, {"steps": 4, "evolve_every": 2, "start": "gradient"}, "DLT-004 EVT-001"),
    ("model-scope", TWO, {"scope": "model"}, {"steps": 4, "evolve_every": 2}, "EVT-009 SEL-007"),
    ("drawn-end", THREE, {"adapt": "random", "adapts": "end"}, {"steps": 4, "evolve_every": 2}, "RNG-003 EVT-004"),
)


def depth() -> Area:
    """Return cases of runs, steps and models of several layers (MDL-007, MDL-001, TRN, GEN-001, PRN-005)."""
    area = Area("depth", "binary64 decoder and run")
    _runs(area)
    _steps(area)
    _models(area)
    return area


def _runs(area: Area) -> None:
    for name, config, choice, more, clauses in _RUNS:
        rule = update_choices.RULE | choice
        settings = (
            train_presets.SETTINGS | {"micro_batches": 1, "rows": 2, "drop_fraction": 1.0} | more | {"rule": rule}
        )
        for seed in range(200):
            world = tiny.world(Numbers(62, seed), config)
            run = train.run(config, *world, settings | {"seed": seed})
            if run.gap >= GAP and run.moves["grown"]:
                break
        else:
            msg = f"no seed for {name}"
            raise AssertionError(msg)
        purpose = "a matrix index that starts anew in every block, or the targets of one block alone"
        inputs = given_run(settings | {"seed": seed}, world, config)
        area.add(name, "train.run", f"MDL-007 {clauses}", purpose, inputs, of_run(run))


def _steps(area: Area) -> None:
    """Add steps with an event from a state that a run of two layers has reached."""
    ((seed, step, inputs, answer),) = train_steps.reached(train_steps.SETTINGS, (2,), TWO)
    inputs["settings"] = train_steps.SETTINGS | {"seed": seed}
    purpose = "the state of a block taken for that of another"
    area.add(f"step-{step}", "train.step", "MDL-007 EVT-001 OPT-001 DLT-003", purpose, inputs, answer)
    drawn = train_steps.SETTINGS | {
        "rule": update_choices.RULE | _DRAWN,
        "start": "random",
        "drop_fraction": 1.0,
    }
    ((seed, step, inputs, answer),) = train_steps.reached(drawn, (2,), TWO)
    inputs["settings"] = drawn | {"seed": seed}
    purpose = "a matrix index that starts anew in every block"
    area.add(f"step-drawn-{step}", "train.step", "MDL-007 RNG-003 EVT-001", purpose, inputs, answer)


def _models(area: Area) -> None:
    n = Numbers(63, 1)
    tensors = tensors_of(THREE, n, 0.6)
    tokens = n.integers((2, 5), 0, 4)
    loss, logits, gradients = Decoder(THREE, tensors).loss_and_gradients(tokens, tokens)
    inputs: dict[str, Any] = {"config": THREE, "tensors": tensors, "tokens": tokens}
    answer = {"loss": loss, "logits": logits, "gradients": gradients}
    purpose = "blocks in another order, a block left out, the last block twice"
    more = {"labels": tokens, "rows_at_once": 2}
    area.add("model", "model.step", "MDL-001 GRD-001 NUM-004", purpose, inputs | more, answer)
    behind = {"logits": generate.logits_behind(THREE, tensors, tokens, (2, 1, 2))}
    purpose = "the keys of one block for those of another"
    area.add("read", "generate.read", "GEN-001 MDL-001", purpose, inputs | {"parts": [2, 1, 2]}, behind)
    text_inputs: dict[str, Any] = {
        "config": THREE,
        "tensors": tensors,
        "prompt": [3, 1],
        "stops": [],
        "temperature": 0.0,
    }
    text_inputs |= {"max_tokens": 6, "seed": 1}
    text, gap = generate.text(THREE, tensors, [3, 1], [], 6, text_inputs)
    assert gap >= 1e-4, f"the text hangs on {gap}"
    area.add("text", "generate.text", "GEN-001 GEN-007", purpose, text_inputs, {"tokens": ids(text)})
    for seed in range(100):
        n = Numbers(64, seed)
        tensors, tokens = tensors_of(THREE, n, 0.6), n.integers((4, 5), 0, 4)
        kept, _, gap = prune.model(THREE, tensors, tokens, prune.by_wanda(0.5))
        if gap > 1e-3:
            break
    inputs = {"config": THREE, "tensors": tensors, "tokens": tokens, "sparsity": 0.5}
    purpose = "statistics from two blocks before, or from blocks that are not pruned yet"
    answer = {"kept": {name: ids(k) for name, k in kept.items()}}
    area.add("pruned", "prune.model", "PRN-005 PRN-003 MDL-007", purpose, inputs, answer)
    config = tiny.CONFIG | {"num_hidden_layers": 12}
    described = {"windows": [None] * 12, "head_dim": 2, "kv_heads": 1}
    names = [f"model.layers.{i}.{p}.weight" for i in range(12) for p in _PROJECTIONS]
    purpose = "names sorted as texts: block 10 before block 2"
    area.add("twelve", "config.describe", "MDL-007", purpose, {"config": config}, {"targets": names} | described)


_PROJECTIONS = [f"self_attn.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")]


def last_pass() -> Area:
    """Return cases of runs, each of one condition of the pass after the last step (EVT-004)."""
    area = Area("last-pass", "binary64 run")
    rows_move = {"counts": "values", "scope": "row", "drop_schedule": "constant"}
    rows: tuple[tuple[str, dict[str, Any], Tells, str, str], ...] = (
        ("exempt", {"exempt": "slots", "adapts": "end"}, _cuts_a_slot, "ADPT-007", "slots exempt"),
        ("support", {"counts": "values"}, _values_fit, "ADPT-006", "zeros not counted: nothing to prune"),
        ("row", rows_move, _whole_fits, "EVT-009", "only a matrix above its budget"),
        ("row-end", {"scope": "row", "adapts": "end"}, _whole_differs, "EVT-009", "rows that trade budgets"),
        ("model", {"scope": "model", "adapts": "end"}, _whole_differs, "EVT-009", "matrices that keep theirs"),
        ("data", {"adapts": "end"}, _first_data_differ, "TRN-003", "the data of the first step"),
        ("micro", {"adapts": "end"}, _first_rows_differ, "TRN-002", "the first micro-batch alone"),
    )
    for name, choice, tells, clause, purpose in rows:
        rule = update_choices.RULE | choice
        more = {"steps": 9, "density": 0.3, "drop_fraction": 1.0} if choice is rows_move else {"steps": 5}
        settings = train_presets.SETTINGS | {"evolve_every": 2, "rows": 2, "micro_batches": 1} | more | {"rule": rule}
        settings |= {"micro_batches": 2} if name == "micro" else {}
        seed, world, run = _found(settings, tells, zeros="counts" in choice)
        inputs = given_run(settings | {"seed": seed}, world, tiny.CONFIG)
        area.add(name, "train.run", f"EVT-004 {clause}", f"in the last pass: {purpose}", inputs, of_run(run))
    _no_evidence(area)
    return area


Final = list[dict[int, float]]
Tells = Callable[[train.Trainer, Final], bool]
"""A function of the state before the pass and the weights after it: would a certain wrong pass end differently?"""


def _found(settings: dict[str, Any], tells: Tells, *, zeros: bool) -> tuple[int, Any, train.Run]:
    """Return the first seed whose last pass depends on no gap below GAP and for which `tells` is true.

    zeros  whether the first three stored weights of each target are 0
    """
    for seed in range(400):
        world = tiny.world(Numbers(65, seed), tiny.CONFIG)
        for name, at in world[1].items() if zeros else ():
            world[0][name].reshape(-1)[at[:3]] = 0.0
        mine = settings | {"seed": seed}
        before, losses, kept, moves = train.before_finish(tiny.CONFIG, *world, mine)
        run = train.finished(deepcopy(before), losses, kept, moves)
        if run.gap >= GAP and run.moves["grown"] and tells(before, run.final):
            return seed, world, run
    msg = f"no seed for {tells.__name__}"
    raise AssertionError(msg)


def _cuts_a_slot(before: train.Trainer, final: Final) -> bool:
    return any(part.phi.keys() - w.keys() for part, w in zip(before.parts, final, strict=True))


def _values_fit(before: train.Trainer, final: Final) -> bool:
    pairs = zip(before.parts, final, strict=True)
    counted = [(effective(part.base, part.phi), w, part.budget[0]) for part, w in pairs]
    return any(len(w) < len(weights) and sum(x != 0 for x in weights.values()) <= k for weights, w, k in counted)


def _whole_fits(before: train.Trainer, final: Final) -> bool:
    sizes = [len(part.base.keys() | part.phi.keys()) for part in before.parts]
    return any(len(w) < n <= k for w, n, k in zip(final, sizes, before.budgets, strict=True))


def _whole_differs(before: train.Trainer, final: Final) -> bool:
    look = before.look(before.s["steps"])
    parts = [replace(part, budget=[k]) for part, k in zip(before.parts, before.budgets, strict=True)]
    evidence = [
        Evidence(g, [], [], [0.0] * part.shape[1], [], []) for g, part in zip(look.gradients, parts, strict=True)
    ]
    wrong, _ = events.last_pass(parts, evidence, before.rule | {"scope": "matrix"}, seed=0, step=0)
    return [part.base.keys() | part.phi.keys() for part in wrong] != [w.keys() for w in final]


def _first_data_differ(before: train.Trainer, final: Final) -> bool:
    first = before.data(1)
    vars(before)["data"] = lambda _: first
    return _whole_differs(before, final)


def _first_rows_differ(before: train.Trainer, final: Final) -> bool:
    tokens, labels, mask = before.data(before.s["steps"])
    vars(before)["data"] = lambda _: (tokens[:1], labels[:1], mask)
    return _whole_differs(before, final)


def _no_evidence(area: Area) -> None:
    """Add a run whose last step leaves weights with gradients that are not finite, and no pool over its budget."""
    world = tiny.world(Numbers(66, 0), tiny.CONFIG)
    for dtype, lr in (("float32", 2.0**100), ("float64", 2.0**600)):
        settings = train_presets.SETTINGS | {"preset": "seft", "steps": 1, "seed": 0, "lr": lr}
        settings |= {"rows": 2, "micro_batches": 1}
        trainer = train.Trainer(tiny.CONFIG, *world, settings)
        loss = trainer.look(1)
        trainer.optimize(1, loss.gradients)
        final = [effective(part.base, part.phi) for part in trainer.parts]
        run = train.Run([loss.loss], [], trainer.parts, trainer.budgets, trainer.delta_budgets, final, 1.0, {})
        purpose = "evidence gathered where nothing is pruned, and refused"
        inputs = given_run(settings, world, tiny.CONFIG)
        area.add(f"no-evidence-{dtype}", "train.run", "EVT-004 EVT-005", purpose, inputs, of_run(run), dtypes=(dtype,))


AREAS = (
    depth,
    last_pass,
)
