"""Logs of runs that nobody ran, as TRN-010 writes them: one good, one that jumps, one denser at the end, one static."""

import json
import math
import random

from seft_ref.train.diagnose import Watch

ROLES = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
COUNTS = ("dropped", "grown", "cancelled", "pruned", "reactivated", "refilled", "slots", "support", "start")


def run_log(preset="seft", *, blocks=3, hidden=64, steps=80, every=20, jump_at=None, adapts=True, seed=0):
    """The records of a run: losses that fall, events that move slots, and the warnings that follow from them."""
    chance = random.Random(seed)
    evolves = preset != "static"
    shapes = {
        f"model.layers.{block}.{role}_proj.weight": (
            3 * hidden if role in ("mlp.gate", "mlp.up") else hidden // 3 if role[-1] in "kv" else hidden,
            3 * hidden if role == "mlp.down" else hidden,
        )
        for block in range(blocks)
        for role in ROLES
    }
    stored = {name: int(0.3 * out * into) for name, (out, into) in shapes.items()}
    slots = {name: max(1, int(0.02 * out * into)) for name, (out, into) in shapes.items()}
    support, start, budget = dict(stored), dict(stored), sum(stored.values())
    settings = {"preset": preset, "steps": steps, "evolve_every": every, "drop_fraction": 0.2, "density": 0.02}
    settings |= {"lr": 1e-3, "optimizer": {"name": "adamw", "beta1": 0.9}, "evolve_until": 1.0, "seed": seed}
    matrices = [{"name": n, "shape": list(shapes[n]), "stored": stored[n], "slots": slots[n]} for n in sorted(shapes)]
    records = [{"type": "run", "log": 1, "settings": settings, "matrices": matrices, "budget": budget}]
    watch, lifted = Watch(budget), 0.0

    def warn(findings):
        records.extend({"type": "warning", "step": f.step, "name": f.name, "message": f.message} for f in findings)

    def event(step, fraction):
        parts = []
        for index, (name, shape) in enumerate(shapes.items()):
            depth = 0.4 + 1.2 * (index / len(shapes)) + (0.8 if "v_proj" in name else 0.0)
            dropped = int(fraction * slots[name])
            cancelled = int(dropped * chance.uniform(0.05, 0.2))
            grown = int((dropped - cancelled) * min(1.0, depth * chance.uniform(0.4, 0.6)))
            back = int(grown * chance.uniform(0.4, 0.7))
            pruned = back if adapts else 0
            support[name] += back - pruned
            start[name] -= pruned
            boundaries = {
                "drop": {"inside": 1e-3, "outside": 1.1e-3, "gap": 10 ** chance.uniform(-6, -3) / math.sqrt(shape[0])},
                "grow": {"inside": 1.0, "outside": 0.9, "gap": 10 ** chance.uniform(-5, -3)} if grown else None,
                "adapt": {"inside": 1.0, "outside": 2.0, "gap": 10 ** chance.uniform(-4, -2)} if pruned else None,
            }
            part = {"name": name, "dropped": dropped, "grown": grown, "cancelled": cancelled, "pruned": pruned}
            part |= {"reactivated": back, "refilled": 0, "slots": slots[name], "support": support[name]}
            part |= {"start": start[name], "churn": grown / slots[name], "overlap": start[name] / stored[name]}
            parts.append(part | {"gradient_norm": chance.uniform(0.1, 0.4), "boundaries": boundaries})
        sums = {key: sum(part[key] for part in parts) for key in COUNTS}
        records.append({"type": "event", "step": step, "fraction": fraction, **sums, "matrices": parts})
        return sums["support"]

    for step in range(1, steps + 1):
        lifted *= 0.9
        loss = 4.0 + 2.2 * math.exp(-step / (0.25 * steps)) + chance.gauss(0, 0.04) + lifted
        record = {"type": "step", "step": step, "loss": loss, "lr": 1e-3}
        records.append(record | {"gradient_norm": 2.0 + chance.random(), "seconds": 2.3 + 0.2 * chance.random()})
        warn(watch.add_step(step, loss))
        if evolves and step % every == 0 and step < steps:
            warn(watch.add_event(step, event(step, 0.1 * (1 + math.cos(math.pi * step / steps)))))
            lifted += 1.4 if step == jump_at else 0.0
    final = sum(support.values())
    warn(watch.end(steps, final))
    return [*records, {"type": "end", "step": steps, "stored": final, "budget": budget}]


def as_text(records):
    """One JSON object a line."""
    return "".join(json.dumps(record) + "\n" for record in records)


RUNS = {
    "good": {},
    "jumps": {"jump_at": 40},
    "denser": {"preset": "rigl", "adapts": False, "every": 10},
    "static": {"preset": "static"},
    "one step": {"preset": "static", "steps": 1, "blocks": 1},
}
