"""Mutants of training states that lose something when they are written or read (TRN-004, CKP-006, CKP-007).

The engine writes and reads. In between the second reader reads the file, an edit changes it, and the oracle writes it.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.engine.parts import state_file
from conformance.oracle import files
from conformance.oracle.files import Tensor
from conformance.oracle.second_reader import Refused, read
from conformance.wrong.mutants.base import REFUSALS, Mutant, Operation, Values, mutant, mutants, rewritten, right
from conformance.wrong.mutants.base import edited as edited_source

Tensors = dict[str, Tensor]
Edit = Callable[[Tensors, Values], None]


def edited(raw: Any, edit: Edit) -> Any:
    """Return the bytes of a state after an edit of its tensors or attributes."""
    state = read(raw.tobytes())
    tensors = {}
    for name, t in state.tensors.items():
        support = None
        if t.row_pointers is not None:
            rows = np.repeat(np.arange(len(t.row_pointers) - 1), np.diff(t.row_pointers))
            support = tuple((int(r), int(c)) for r, c in zip(rows, t.columns, strict=True))
        elif t.dtype == "NONE":
            support = tuple(divmod(p, t.shape[-1]) for p in range(math.prod(t.shape)))
        tensors[name] = Tensor(t.dtype, t.shape, t.bits, support)
    attributes = dict(state.attributes)
    edit(tensors, attributes)
    pieces = files.pieces(tensors, kind=state.kind, attributes=attributes)
    return np.frombuffer(pieces.pack(), dtype=np.uint8)


def written(edit: Edit) -> Operation:
    """Return a writer of states with an edit."""

    def f(a: Values) -> Values:
        return {"raw": edited(right("state.write")(a)["raw"], edit)}

    return f


def resumed(edit: Edit) -> Operation:
    """Return a run that resumes from an edited state."""

    def f(a: Values) -> Values:
        try:
            return right("state.resume")(a | {"raw": edited(a["raw"], edit)})
        except Refused:
            # a damaged file is passed on unchanged, because it cannot be edited
            return right("state.resume")(a)

    return f


_OPEN = "max(0, step - (event[0] - event[1]))"
"""The steps that an open window must hold, in the source of the engine."""


def unaware(edit: Edit, check: Any, old: str, new: str) -> Operation:
    """Return a run that resumes from an edited state, with a check of the engine that would refuse it rewritten."""

    def f(a: Values) -> Values:
        original, check.__code__ = check.__code__, rewritten(check, old, new)
        try:
            return resumed(edit)(a)
        finally:
            check.__code__ = original

    return f


def zeros(*ends: str) -> Edit:
    """Return an edit that sets tensors to 0 if their names end with one of `ends`."""

    def edit(tensors: Tensors, attributes: Values) -> None:
        for name, t in tensors.items():
            if name.endswith(ends):
                tensors[name] = replace(t, bits=bytes(len(t.bits)))

    return edit


def nowhere(*ends: str) -> Edit:
    """Return an edit that removes tensors if their names end with one of `ends`."""

    def edit(tensors: Tensors, attributes: Values) -> None:
        for name in [name for name in tensors if name.endswith(ends)]:
            del tensors[name]

    return edit


def no_window(tensors: Tensors, attributes: Values) -> None:
    """Remove open windows."""
    nowhere(*(f".window.{part}" for part in ("gradient", "absolute", "square", "input_squares", "candidates")))(
        tensors, attributes
    )
    attributes["windows"] = {}


without_lost = nowhere(".lost")
"""Remove the positions that have left the base."""


def values_of(t: Tensor) -> Any:
    """Return the values of a tensor of floats."""
    return np.frombuffer(t.bits, dtype={"F32": "<f4", "F64": "<f8"}[t.dtype])


def means(tensors: Tensors, attributes: Values) -> None:
    """Replace the sums of windows by means."""
    for name, counts in attributes["windows"].items():
        for part in ("gradient", "absolute", "square"):
            key = f"{name}.window.{part}"
            if key in tensors:
                t = tensors[key]
                x = values_of(t)
                tensors[key] = replace(t, bits=(x / x.dtype.type(counts["steps"])).tobytes())


def every_candidate(tensors: Tensors, attributes: Values) -> None:
    """Replace the candidates of a window by the positions of its gradient, which include the support."""
    for name in [name for name in tensors if name.endswith(".window.candidates")]:
        tensors[name] = replace(tensors[name], support=tensors[name.replace("candidates", "gradient")].support)


def one_step_of_a_window(tensors: Tensors, attributes: Values) -> None:
    """Let every window count as one step."""
    attributes["windows"] = {name: counts | {"steps": 1} for name, counts in attributes["windows"].items()}


def budgets_of_what_is_left(tensors: Tensors, attributes: Values) -> None:
    """Set K to the number of weights that the base stores now."""
    attributes["budgets"] = {name: tensors[f"{name}.base"].nnz for name in attributes["budgets"]}


def base_and_slots(tensors: Tensors, attributes: Values) -> None:
    """Set K to the weights of the base plus the slots, so that positions of both count twice."""
    matrices = attributes["matrices"]
    attributes["budgets"] = {name: tensors[f"{name}.base"].nnz + tensors[f"{name}.delta"].nnz for name in matrices}


def rows_of_what_is_left(tensors: Tensors, attributes: Values) -> None:
    """Set K of each row to the number of weights that the base stores in it now."""
    for name in attributes["matrices"]:
        key = f"{name}.row_budget"
        if key in tensors:
            counts = np.diff([0, *files.pointers(tensors[f"{name}.base"])[1:]])
            tensors[key] = replace(tensors[key], bits=counts.astype("<i8").tobytes())


def slots_of_now(tensors: Tensors, attributes: Values) -> None:
    """Set d_φ to the number of slots now."""
    attributes["delta_budgets"] = {name: tensors[f"{name}.delta"].nnz for name in attributes["matrices"]}


def merged(tensors: Tensors, attributes: Values) -> None:
    """Add φ to the base."""
    for name in attributes["matrices"]:
        base, delta = tensors[f"{name}.base"], tensors[f"{name}.delta"]
        if base.support is None or delta.support is None:
            continue
        add = dict(zip(delta.support, values_of(delta), strict=True))
        x = [b + add.get(at, b * 0) for at, b in zip(base.support, values_of(base), strict=True)]
        tensors[f"{name}.base"] = replace(base, bits=np.array(x, dtype=values_of(base).dtype).tobytes())


def names_in_order(tensors: Tensors, attributes: Values) -> None:
    """Sort the matrices by name."""
    attributes["matrices"] = sorted(attributes["matrices"])


def a_step_late(tensors: Tensors, attributes: Values) -> None:
    """Decrease the step of the state by one."""
    attributes["step"] -= 1


def settings_left_out(tensors: Tensors, attributes: Values) -> None:
    """Remove the seed from the settings of the state."""
    settings = json.loads(attributes["settings"])
    attributes["settings"] = files.text({key: value for key, value in settings.items() if key != "seed"})


def trusting(**attributes: Callable[[Values], Any]) -> Operation:
    """Return a run that resumes from a refused state after setting some of its attributes."""

    def f(a: Values) -> Values:
        overrides = {name: of(a) for name, of in attributes.items()}
        try:
            return right("state.resume")(a)
        except REFUSALS:
            return right("state.resume")(a | {"raw": edited(a["raw"], lambda _, stored: stored.update(overrides))})

    return f


def longer(a: Values) -> Values:
    """Append 64 zero bytes to the file."""
    return {"raw": np.append(right("state.write")(a)["raw"], np.zeros(64, dtype=np.uint8))}


def any_settings(a: Values) -> Values:
    """Accept a state of other settings."""
    try:
        return right("state.resume")(a)
    except REFUSALS as error:
        if "settings" not in str(error):
            raise
        return {}


def any_dtype(a: Values) -> Values:
    """Accept a state of another dtype."""
    try:
        return right("state.resume")(a)
    except REFUSALS as error:
        if "dtype" not in str(error):
            raise
        return {}


def unverified(a: Values) -> Values:
    """Accept a state whose digests are wrong."""
    try:
        return right("state.resume")(a)
    except REFUSALS as error:
        if not error.clause.startswith("FMT"):
            raise
        return {}


def names_compared(a: Values) -> Values:
    """Return no losses after a state of another preset name, as if the name were compared."""
    settings = json.loads(read(a["raw"].tobytes()).attributes["settings"])
    if settings["preset"] == (a["settings"].get("preset") or "seft"):
        return right("state.resume")(a)
    return right("state.resume")(a) | {"losses": a["tensors"]["model.norm.weight"][:0]}


_PARTS: tuple[tuple[str, str, Edit], ...] = (
    ("TRN-004 OPT-001", "ages start anew", zeros(".delta.age")),
    ("TRN-004 OPT-001", "first moments start anew", zeros(".delta.first_moment")),
    ("TRN-004 OPT-001", "second moments start anew", zeros(".delta.second_moment")),
    ("TRN-004 OPT-007", "momentum starts anew", zeros(".delta.momentum")),
    ("TRN-004 DROP-003", "origins are 0", zeros(".delta.origin")),
    ("TRN-004 OPT-008", "accumulators of rows start anew", zeros(".delta.rows")),
    ("TRN-004 OPT-008", "accumulators of columns start anew", zeros(".delta.columns")),
    ("CKP-007 CKP-006", "φ starts anew", zeros(".delta")),
    ("TRN-004 CKP-007", "a window is forgotten", no_window),
    ("TRN-005 CKP-006", "the gradients of a window are lost", zeros(".window.gradient")),
    ("GRD-005", "|g| of a window is lost", zeros(".window.absolute")),
    ("GRD-005", "g² of a window is lost", zeros(".window.square")),
    ("GRD-006", "x² of a window is lost", zeros(".window.input_squares")),
    ("TRN-005", "a window of means", means),
    ("DLT-006", "a window of one step", one_step_of_a_window),
    ("GRD-007", "the support is among the candidates", every_candidate),
    ("EVT-009", "budgets of rows are what is left of them", rows_of_what_is_left),
    ("CKP-007", "what has left the base is forgotten", without_lost),
    ("CKP-007 CKP-006", "b + φ as the base", merged),
    ("CKP-006 EVT-003", "K is base and slots of now", base_and_slots),
)
"""Rows of clauses, flaw and edit; each edit gives a mutant of writing and a mutant of reading."""

_STEPS = state_file._steps_of_window
_NO_BUDGETS = (state_file._check_budgets, "# CKP-007.11", "return")
_UNAWARE: dict[Edit, tuple[Any, str, str]] = {
    no_window: (_STEPS, _OPEN, "0"),
    one_step_of_a_window: (_STEPS, _OPEN, f"min(1, {_OPEN})"),
    rows_of_what_is_left: _NO_BUDGETS,
    without_lost: _NO_BUDGETS,
    base_and_slots: _NO_BUDGETS,
}
"""Edits whose states the engine refuses, and the check that a reader with this flaw lacks: function, text, new text."""

MUTANTS: list[Mutant] = [
    *(
        mutant(clauses, "state.resume", unaware(edit, *_UNAWARE[edit]) if edit in _UNAWARE else resumed(edit), flaw)
        for clauses, flaw, edit in _PARTS
    ),
    *(mutant(clauses, "state.write", written(edit), flaw) for clauses, flaw, edit in _PARTS),
    *mutants("state.resume",
        ("TRN-004", resumed(a_step_late), "the step of the state is taken again"),
        ("CKP-006", trusting(text=lambda a: a["origin"]["text"]), "another text"),
        ("CKP-006", trusting(model=lambda a: a["origin"]["model"]), "another model"),
        ("CKP-006", any_settings, "other settings"),
        ("CKP-006", any_dtype, "a state that is cast"),
        ("CKP-006", names_compared, "the preset's name compared"),
        ("FMT-090", unverified, "digests not verified"),
        unchecked="CKP-006 CKP-007"),
    *mutants("state.write",
        ("CKP-007", written(a_step_late), "the step is counted from 0"),
        ("PRT-020", longer, "bytes behind the file"),
        ("CKP-007", written(nowhere(".delta.age")), "no ages"),
        ("CKP-007", written(names_in_order), "matrices in order of name"),
        ("CKP-006", written(settings_left_out), "a seed that is not told"),
        ("CKP-006", written(budgets_of_what_is_left), "K is what is left of the base"),
        ("CKP-006", written(slots_of_now), "d_φ is how many slots there are")),
    edited_source(
        "CKP-006",
        "state.resume",
        state_file._difference,
        'key != "preset"',
        'key not in ("preset", "steps")',
        "another number of steps",
        "state.refuses",
    ),
]  # fmt: skip
