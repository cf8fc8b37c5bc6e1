"""Properties of runs on targets that stay in 16 bits or codes (CKP-008, QNT-008, QNT-011)."""

from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from conformance.answers import answer
from conformance.answers.answer import ids, reals
from conformance.answers.train import run_of
from conformance.oracle import quantise, update_choices
from conformance.properties.draws import Draw
from conformance.properties.models import OFF, TINY, ask_until_sure, surely
from conformance.properties.train_drawn import GAP, LEAST, SETTINGS, World, drawn_world, weakest
from conformance.properties.trial import Trial, property_of

_HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(bfloat16)}


def held_as(form: str, world: World) -> dict[str, Any]:
    """Return a world with its targets in a 16-bit form, or on a grid with their codes, as inputs of `train.held`."""
    tensors, stored = dict(world["tensors"]), world["stored"]
    if form in _HALVES:
        halves = {name: tensors[name].astype(_HALVES[form]).astype(float) for name in stored}
        return world | {"tensors": tensors | halves, "held": form}
    codes, scales, zeros = dict[str, Any](), dict[str, Any](), dict[str, Any]()
    for name, at in stored.items():
        matrix = quantise.nearest(tensors[name], at.tolist(), form)
        flat = np.zeros(tensors[name].size)
        flat[at] = [np.float32(float(matrix.weight(p))) for p in at.tolist()]
        tensors[name] = flat.reshape(tensors[name].shape)
        codes[name], scales[name] = ids(matrix.codes[p] for p in at.tolist()), reals(matrix.scales)
        zeros[name] = np.array(matrix.zeros, dtype=np.int64)
    return world | {"tensors": tensors, "held": form, "codes": codes, "scales": scales, "zeros": zeros}


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
        form = d.choice((*_HALVES, "int8", "int8:asym", "int4", "int4:asym"))
        exact = int(form not in _HALVES and d.flag())
        settings = SETTINGS | {
            "rule": update_choices.RULE | {"adapt": d.choice(("sensitivity", "magnitude"))},
            "start": "random",
            "seed": d.integer(0, 2**40),
            "steps": d.integer(3, 5),
            "length": 5,
            "density": d.integer(1, 3) / 8,
            # lr is small, because AdamW divides a small gradient by itself and so shows its rounding as a part of lr
            "lr": 2.0**-14,
        }
        inputs = held_as(form, drawn_world(d, TINY)) | {"settings": settings} | ({"exact": 1} if exact else {})
        run, sure = run_of(inputs), None
        if weakest(run) > LEAST and run.trainer.gap >= GAP:
            # the weights of targets lie on a grid, so that only the other parameters are moved
            others = {name: tensor for name, tensor in inputs["tensors"].items() if name not in inputs["stored"]}

            def again(moved: dict[str, Any]) -> dict[str, Any]:
                return dict(answer("train.held", inputs | {"tensors": inputs["tensors"] | moved}, "float32").outputs)

            sure = surely(d, others, again, 10 * OFF)
        t.saw("16 bits", sure is not None and form in _HALVES)
        t.saw("codes", sure is not None and form not in _HALVES)
        t.saw("rounded in every step", sure is not None and exact)
        return inputs, sure

    # CKP-008: such a run computes in float32
    ask_until_sure(t, "train.held", draw, "a run", dtypes=("float32",))
