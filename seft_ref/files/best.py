"""The best model of a run so far, in a folder OUT.best-STEP beside the folder OUT of the run (TRN-022)."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import formats
from seft_ref.arrays.library import Array
from seft_ref.errors import CheckpointError
from seft_ref.files.model import open_folder
from seft_ref.files.save import save_model
from seft_ref.topology.csr import Topology

_KEY = "seft.validation"
_REMOVED = ".removed"
"""What the name of a model that is no longer the best ends in while it is removed."""
_IN_WORDS = {"every": "steps between measurements", "data": "data"}


@dataclass(frozen=True, slots=True)
class Best:
    """The smallest loss on validation data, in nats a target, and the step after which it was measured."""

    step: int
    loss: float


def best_kept(out: str | Path, step: int, measure: Mapping[str, object]) -> Best | None:
    """Return the best measurement that a run stopped after `step` has kept, None if it kept none.

    measure  the data that are measured and how often, which must be the same as before
    Raises   CheckpointError CKP-006 for a measurement on other data or at other steps, or for a folder that has the
             name of a kept model and is none

    Measurements after a later step are left out, because the resumed run repeats them (TRN-022.4).
    """
    kept_models = []
    for folder in _folders(out):
        try:
            with open_folder(folder) as source:
                record = json.loads(str(source.attributes[_KEY])) if isinstance(source, formats.Reader) else {}
            best = Best(record.pop("step"), record.pop("loss"))
        except (CheckpointError, formats.FormatError, KeyError, ValueError):
            raise CheckpointError("CKP-006", f"{folder} was not kept by a run; move it to another name") from None
        if different := [name for name in measure if record.get(name) != measure[name]]:
            raise CheckpointError(
                "CKP-006",
                f"{folder} was measured with other {' and '.join(_IN_WORDS[name] for name in different)}; resume with "
                "the same validation",
            )
        kept_models.append(best)
    return min(
        (best for best in kept_models if best.step <= step), key=lambda best: (best.loss, best.step), default=None
    )


def keep(
    model: str | Path,
    out: str | Path,
    best: Best,
    measure: Mapping[str, object],
    final: Mapping[str, tuple[Topology, Array]],
    attributes: Mapping[str, str],
) -> None:
    """Write the model that a run would leave now, then remove the one that it kept before.

    Other arguments are those of `save_model`.
    """
    folder, before = _folder(out, best), _folders(out)
    if folder not in before:  # otherwise the run wrote it before an interruption, with the same content
        record = {"step": best.step, "loss": best.loss, **measure}
        save_model(model, folder, final, {**attributes, _KEY: json.dumps(record)})
    for other in before:
        if other != folder:
            # half of a folder must not have the name of a kept model
            other.rename(other.with_name(f"{other.name}{_REMOVED}"))
    _remove(out)


def give_out(out: str | Path, best: Best) -> None:
    """Move the folder of the best model to `out`."""
    _folder(out, best).rename(out)
    _remove(out)


def _remove(out: str | Path) -> None:
    """Remove the models that are no longer the best, also those that a killed run has left half removed."""
    for folder in _folders(out, _REMOVED):
        shutil.rmtree(folder)


def refuse_kept(out: str | Path, *, resume: bool, has_state: bool) -> None:
    """Refuse to start a run beside a model that another run has kept, or to resume without validation (CKP-006)."""
    for folder in _folders(out):
        if resume:
            advice = "resume with the same validation, or remove the folder to go on without"
        else:
            advice = "resume it, or remove the folder" if has_state else "it saved no state; remove the folder"
        raise CheckpointError("CKP-006", f"{folder} was kept by an unfinished run; {advice}")


def _folder(out: str | Path, best: Best) -> Path:
    return Path(f"{out}.best-{best.step}")


def _folders(out: str | Path, end: str = "") -> list[Path]:
    """Return the folders that have the name of a kept model and this end, and no copies of them under other names."""
    path = Path(out)
    name = re.compile(re.escape(path.name) + r"\.best-[0-9]+" + re.escape(end))
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(one for one in beside if name.fullmatch(one.name) and one.is_dir())
