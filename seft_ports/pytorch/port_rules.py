"""The operations of the kit's profile `rules`, for `port.py`: pools, scores, windows, counts, settings and events."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seft_ports.pytorch import criteria, decide, delta, schedule, slot_step
from seft_ports.pytorch.errors import SeftError
from seft_ports.pytorch.linear import SeftLinear
from seft_ports.pytorch.patterns import keep_pattern
from seft_ports.pytorch.presets import CHOICES, DEFAULTS, PRESETS
from seft_ports.pytorch.run import settings_named
from seft_ports.pytorch.select import smallest_of_pools
from seft_ports.pytorch.settings import Settings

__all__ = ["OPERATIONS"]

Given = dict[str, Any]
Answer = dict[str, Any]

_SHORT = {"m": "first_moment", "v": "second_moment", "age": "age", "u": "momentum", "origin": "origin"}
"""The kit's name of an array with an entry for each slot -> its name in this port."""


def _ends(scores: Tensor, chosen: Tensor, pools: Tensor) -> tuple[float, float] | None:
    """Return the scores on both sides of the tightest boundary of a selection of the smallest (SEL-008), or None."""
    is_chosen = torch.zeros(len(scores), dtype=torch.bool)
    is_chosen[chosen] = True
    scores = scores.double() + 0.0
    numbers, at = pools.unique(return_inverse=True)
    nothing = scores.new_full((len(numbers),), torch.inf)
    inside = (-nothing).scatter_reduce(0, at[is_chosen], scores[is_chosen], "amax")
    outside = nothing.scatter_reduce(0, at[~is_chosen], scores[~is_chosen], "amin")
    bounded = inside.isfinite() & outside.isfinite()
    if not bounded.any():
        return None
    a, b = inside[bounded], outside[bounded]
    size = torch.maximum(a.abs(), b.abs())
    gaps = torch.where(size > 0, (a - b).abs() / size, size)
    # SEL-008: of equal gaps the first pool's is reported, which argmin returns
    best = int(gaps.argmin())
    return float(a[best]), float(b[best])


def _pools(g: Given) -> Answer:
    scores = -g["scores"] if g["largest"] else g["scores"]
    chosen = smallest_of_pools(scores, g["pools"], g["counts"])
    ends = _ends(scores, chosen, g["pools"])
    answer = {"chosen": g["ids"][chosen]}
    if ends is None:
        return answer | dict.fromkeys(("inside", "outside", "gap"), scores[:0])
    size = max(map(abs, ends))
    gap = abs(ends[0] - ends[1]) / size if size else 0.0
    inside, outside = (0.0 - end if g["largest"] else end for end in ends)
    levels = {"inside": inside, "outside": outside, "gap": gap}
    return answer | {name: torch.tensor([x], dtype=scores.dtype) for name, x in levels.items()}


def _scores(of: dict[str, criteria.Score], names: tuple[str, ...], use: int) -> Callable[[Given], Answer]:
    """Return the operation that scores positions; `names` are the inputs with one entry per position."""

    def operation(g: Given) -> Answer:
        at, width = g["positions"], max(g.get("in") or 1, 1)
        evidence = {name: g[name] for name in names if g.get(name) is not None}
        for name, index in (("inputs", at % width), ("row_moments", at // width), ("column_moments", at % width)):
            if g.get(name) is not None:
                evidence[name.removesuffix("_moments")] = g[name][index]
        if use == criteria.USE_GROW:
            for name in ("gradient", "absolute", "square"):
                evidence |= {} if g[name] is None else {name: g[name].flatten()[at]}
        if g["criterion"] == "random":
            evidence["uniform"] = criteria.uniform(g["seed"], g["matrix"], g["step"], g.get("use") or use, at)
        scores = of[g["criterion"]](evidence)
        decide.check_evidence([scores])
        return {"scores": scores}

    return operation


def _evidence(g: Given) -> Answer:
    layer = _window(g, ["gradient", "absolute", "square", "inputs"])
    return layer.evidence(len(g["dy"]))


def _tokens(g: Given) -> Answer:
    return {"tokens": _window(g, ["tokens"]).evidence(len(g["dy"]))["tokens"].flatten()[g["support"]]}


def _window(g: Given, evidence_names: list[str]) -> SeftLinear:
    """Return a layer that stores the case's support and has seen its backward passes."""
    zeros = g["dy"][0][0].new_zeros(g["out"], g["in"])
    support = torch.zeros(zeros.shape, dtype=torch.bool)
    if "support" in g:
        support.view(-1)[g["support"]] = True
    layer = SeftLinear(zeros, support, 0)
    layer.watch(evidence_names)
    for dys, xs in zip(g["dy"], g["x"], strict=True):
        for dy, x in zip(dys, xs, strict=True):
            layer.see(dy, x)
        layer.settle()
    return layer


def _norm(g: Given) -> Answer:
    norm = decide.norm_of(g["gradient"])
    decide.check_evidence([torch.tensor(norm, dtype=torch.float64)])
    return {"norm": norm}


def _budgets(g: Given) -> Answer:
    amount = {"count": "slots", "rank": "rank"}.get(g["by"], "density")
    settings = Settings(preset="seft", budget_by=g["by"], **{amount: g["amount"]})
    shapes = [(int(out), int(width)) for out, width in g["shapes"]]
    return {"n": torch.tensor(delta.budgets(settings, shapes, [int(n) for n in g["stored"]]), dtype=torch.int64)}


def _fraction(g: Given) -> Answer:
    names = ("step", "steps", "drop_fraction", "drop_schedule", "first_event", "evolve_until")
    return {"value": schedule.event_fraction(*(g[name] for name in names), first=bool(g["first"]))}


def _all_events(g: Given) -> Answer:
    names = ("events", "steps", "evolve_every", "gradient_window", "evolve_until")
    return _windows(schedule.event_windows(*(g[name] for name in names)))


def _windows(windows: dict[int, int]) -> Answer:
    return {name: torch.tensor(list(x), dtype=torch.int64) for name, x in (("at", windows), ("sums", windows.values()))}


def _initial(g: Given) -> Answer:
    settings = Settings(preset="spiel-ag", initial_positions=g["by"], initial_scope=g["scope"], seed=g["seed"])
    weight = g["base_values"].new_zeros(g["out"] * g["in"])
    weight[g["base"]] = g["base_values"]
    allowed = torch.arange(len(weight)) if g["scope"] == "anywhere" else g["base"]
    scores = g["gradient"].flatten() if g["by"] == "gradient" else weight
    return {"positions": delta.initial(settings, allowed, scores[allowed], g["n"], g["matrix"])}


def _preset(g: Given) -> Answer:
    if g["name"] not in PRESETS:
        raise SeftError("EVT-011", f"there is no preset {g['name']!r}; there are {', '.join(PRESETS)}")
    choices = CHOICES | PRESETS[g["name"]]
    return {"choices": sorted(f"{k}={v if isinstance(v, str) else format(float(v), 'g')}" for k, v in choices.items())}


def _check(g: Given) -> Answer:
    for name in g["choices"]:
        if name not in (*DEFAULTS, "pattern"):
            raise SeftError("EVT-011", f"there is no setting {name!r}")
    Settings(**settings_named({"preset": "sensitivity"} | g["choices"]))
    return {"ok": 1}


def _optimizer(g: Given) -> Answer:
    kind = g["kind"]
    if kind not in slot_step.STEPS:
        raise SeftError("OPT-001", f"there is no optimizer {kind!r}")
    values = g["values"].clone()
    short = {name: long for name, long in _SHORT.items() if long in slot_step.KEEPS[kind]}
    short |= {name: name for name in ("rows", "columns") if kind == "sm3"}
    state = {long: g[name].clone() for name, long in short.items()}
    names = ("beta1", "beta2", "eps", "weight_decay", "momentum", "slot_warmup")
    numbers = {name: g[name] for name in names if g.get(name) is not None}
    place = slot_step.Place.of(g["positions"], g["in"])
    slot_step.STEPS[kind](values, state, g["gradient"], slot_step.Hyper(g["lr"], **numbers), place)
    answer: Answer = dict.fromkeys((*_SHORT, "rows", "columns"))
    del answer["origin"]
    return answer | {"values": values} | {name: state[long] for name, long in short.items()}


# a whole event -------------------------------------------------------------------------------------


def _event(g: Given) -> Answer:
    """Return the outputs of an event, one entry per matrix (chapter 8, TRN-009)."""
    around = {"preset": "sensitivity", "seed": g["seed"], "optimizer": g["parts"][0]["optimizer"]}
    rule = Settings(**settings_named(around | {"pattern": g["pattern"]} | g["rule"]))
    numbers = list(range(len(g["parts"])))
    answer: Answer = {name: [None] * len(numbers) for name in _OUTPUTS}
    for together in [numbers] if rule.scope == "model" else [[i] for i in numbers]:
        inputs = [g["parts"][i] for i in together]
        parts = [_part(one, rule) for one in inputs]
        fraction = 1.0 if rule.first_event == "all" and g["parts"][0]["first"] else g["fraction"]
        ends: dict[str, Any] = dict.fromkeys(("drop", "grow", "adapt"))

        def note(name: str, pools: list[Tensor], scores: list[Tensor], chosen: list[Tensor]) -> None:
            starts = [0, *torch.tensor([len(x) for x in scores]).cumsum(0).tolist()]
            joined = torch.cat([x + start for x, start in zip(chosen, starts, strict=False)])
            ends[name] = _ends(torch.cat(scores), joined, torch.cat(pools))  # noqa: B023

        counts = decide.drop_counts(parts, rule, fraction)
        for i, one, part, decision in zip(
            together, inputs, parts, decide.decide(parts, rule, counts, g["step"], note), strict=True
        ):
            for name, value in _after(one, rule, part, decision, g).items():
                answer[name][i] = value
            answer["records"][i] = _record(one, part, decision, answer["base"][i], answer["delta"][i]) | {
                name: one["base_values"].new_tensor([] if x is None else _turned(name, x)) for name, x in ends.items()
            }
    return answer


_OUTPUTS = (
    *("base", "base_values", "delta", "delta_values", "age", "m", "v", "u", "origin"),
    *("dropped", "grown", "cancelled", "pruned", "records"),
)


def _turned(name: str, ends: tuple[float, float]) -> tuple[float, float]:
    """Return the scores at the boundary of a selection; those of growth change sign, because it negates scores."""
    return (0.0 - ends[0], 0.0 - ends[1]) if name == "grow" else ends


def _part(g: Given, rule: Settings) -> decide.Part:
    flat = g["base_values"].new_zeros(g["out"] * g["in"])
    base = torch.zeros(len(flat), dtype=torch.bool)
    base[g["base"]] = True
    flat[g["base"]] = g["base_values"]
    base_values = flat[g["delta"]]
    flat[g["delta"]] = base_values + g["delta_values"]
    evidence = {name: g[name].flatten() for name in rule.asks()}
    if rule.grow == "moments":
        evidence |= {"row": g["row_moments"], "column": g["column_moments"]}
    if rule.drop == "change":
        evidence["origin"] = g["origin"]
    return decide.Part(
        shape=(g["out"], g["in"]),
        weight=flat,
        base=base,
        held=base_values,
        positions=g["delta"],
        values=g["delta_values"],
        evidence=evidence,
        budgets=g["budget"],
        most=g["delta_budget"],
        candidates=g["candidates"] if rule.candidates == "first-step" else None,
        matrix=g["matrix"],
    )


def _after(g: Given, rule: Settings, part: decide.Part, decision: decide.Decision, case: Given) -> Answer:
    """Return base and delta after a decision, which the layer that trains applies."""
    weight = part.weight.clone()
    weight[part.positions] = part.held
    shape = part.shape
    layer = SeftLinear(weight.view(shape), part.base.view(shape), int(part.most.sum()) + len(part.positions))
    layer.place(part.positions)
    layer.values.data[: layer.slots] = part.values
    state = {}
    for short, name in _SHORT.items():
        if g.get(short) is not None:
            state[name] = torch.zeros(layer.delta_budget, dtype=g[short].dtype)
            state[name][: layer.slots] = g[short]
    seeds = None
    if rule.moments == "seeded":
        numbers = {name: case["rule"][name] for name in ("beta1", "beta2", "momentum")}
        mean, square = (part.evidence[name][decision.grown] for name in ("gradient", "square"))
        seeds = slot_step.seeds(g["optimizer"], mean, square, g["steps"], slot_step.Hyper(0.0, **numbers))
    layer.apply_decision(decision, state, seeds)
    n, stored = layer.slots, torch.nonzero(layer.mask.view(-1)).flatten()
    values = layer.weight.detach().view(-1).clone()
    values[layer.positions[:n]] = layer.held[:n]
    return {
        "base": stored,
        "base_values": values[stored],
        "delta": layer.positions[:n],
        "delta_values": layer.values[:n],
        **{short: state[name][:n] for short, name in _SHORT.items() if name in state},
        "dropped": decision.dropped,
        "grown": decision.grown[~delta.among(part.positions, decision.grown)],
        "cancelled": decision.dropped[delta.among(decision.grown, decision.dropped)],
        "pruned": decision.pruned,
    }


def _record(g: Given, part: decide.Part, decision: decide.Decision, base: Tensor, slots: Tensor) -> Answer:
    """Return the counts of TRN-009."""
    fresh = decision.grown[~delta.among(part.positions, decision.grown)]
    at_load = torch.cat([g["base"], g["lost"]]).unique()
    return {
        "dropped": len(decision.dropped),
        "grown": len(fresh),
        "cancelled": int(delta.among(decision.grown, decision.dropped).sum()),
        "pruned": len(decision.pruned),
        "reactivated": int((~part.base[fresh]).sum()),
        "refilled": max(0, int(part.most.sum()) - len(part.positions)),
        "slots": len(slots),
        "support": len(torch.cat([base, slots]).unique()),
        # EVT-006: a base never gains a position, so all of it was stored at load
        "start": int(delta.among(at_load, torch.cat([base, slots]).unique()).sum()),
    }


_DROP = _scores(criteria.DROP, ("value", "origin", "square", "weight"), criteria.USE_DROP)

OPERATIONS: dict[str, Callable[[Given], Answer]] = {
    "select.pools": _pools,
    "score.drop": lambda g: _DROP(g | {"value": g["values"]}),
    "score.grow": _scores(criteria.GROW, (), criteria.USE_GROW),
    "score.adapt": _scores(criteria.ADAPT, ("weight", "gradient", "absolute", "square", "tokens"), criteria.USE_ADAPT),
    "window.evidence": _evidence,
    "window.tokens": _tokens,
    "gradient.norm": _norm,
    "count.budgets": _budgets,
    "schedule.drops": _fraction,
    "schedule.all_events": _all_events,
    "schedule.spiel": lambda g: _windows(schedule.event_windows("phases", g["steps"], g["period"], g["accumulate"])),
    "delta.initial": _initial,
    "preset.rule": _preset,
    "rule.check": _check,
    "optimizer.step": _optimizer,
    "update.event": _event,
    "prune.pattern": lambda g: {
        "kept": torch.nonzero(keep_pattern(g["scores"], (g["n"], g["m"])).view(-1)).flatten(),
    },
}
