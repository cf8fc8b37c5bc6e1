"""Properties of runs on targets that stay in 16 bits or codes (CKP-008, QNT-008, QNT-011)."""

from typing import Any

from conformance.gen import tiny, train_presets
from conformance.gen.numbers import Numbers
from conformance.gen.train import GAP, run_answer
from conformance.gen.train_held import HALVES, TIE, run_held
from conformance.oracle import update_choices
from conformance.properties.draws import Draw
from conformance.properties.models import OFF, ask_until_sure, surely
from conformance.properties.train_runs import LEAST, weakest
from conformance.properties.trial import Trial, property_of


@property_of(
    "train.held",
    "CKP-008 QNT-008 QNT-011",
    "held",
    "train.held",
    sees=("a run",),
    tells=("16 bits", "codes", "rounded in every step"),
    seeded=4,
)
def _held(d: Draw, t: Trial) -> None:
    """A short run on targets that are held as they are stored ends like the kit's own run on their weights."""

    def draw() -> tuple[dict[str, Any], dict[str, Any] | None]:
        form = d.choice(("float16", "bfloat16", "int8", "int8:asym", "int4", "int4:asym"))
        exact = int(form not in HALVES and d.flag())
        rule = dict(update_choices.RULE) | {"adapt": d.choice(("sensitivity", "magnitude"))}
        settings = train_presets.SETTINGS | {
            "rule": rule,
            "start": "random",
            "seed": d.integer(0, 2**40),
            "steps": d.integer(3, 5),
            "rows": 2,
            "micro_batches": 1,
            "evolve_every": 2,
            "density": d.integer(1, 3) / 8,
            # lr is small, because AdamW divides a small gradient by itself and so shows its rounding as a part of lr
            "lr": 2.0**-12,
        }
        world = tiny.world(Numbers(203, d.integer(0, 2**40)), tiny.CONFIG)
        run, inputs, tie = run_held(settings, world, form, exact=exact)
        answer = None
        if weakest(run) > LEAST and run.gap >= GAP and tie >= TIE:
            # the weights of targets lie on a grid, so that only the other parameters are moved
            others = {name: tensor for name, tensor in world[0].items() if name not in world[1]}

            def again(params: dict[str, Any]) -> dict[str, Any]:
                moved, _, _ = run_held(settings, (world[0] | params, *world[1:]), form, exact=exact)
                return run_answer(moved)

            answer = surely(d, others, again, 10 * OFF)
        t.saw("16 bits", answer is not None and form in HALVES)
        t.saw("codes", answer is not None and form not in HALVES)
        t.saw("rounded in every step", answer is not None and exact)
        return inputs, answer

    # CKP-008: such a run computes in float32
    ask_until_sure(t, "train.held", draw, "a run", dtypes=("float32",))
