"""Prunes a merged model as its base was pruned, for LoRA* (ADP-005, ADP-012)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from seft_ref.adapters.lora import check_merged, kept_of_merged
from seft_ref.arrays.library import Array, array_namespace, from_numpy, to_numpy
from seft_ref.errors import AdapterError, PruneError, TextError
from seft_ref.files.model import open_parameters
from seft_ref.files.pruned import record_of_folder
from seft_ref.kernels import KernelSet
from seft_ref.model.config import ModelConfig
from seft_ref.prune.keep import SCOPES, Scope, across_matrices
from seft_ref.prune.record import PruningRecord, pattern_of, rates_of
from seft_ref.runs.prune import CALIBRATED, METHODS, masks_of, windows_of
from seft_ref.topology.csr import Topology
from seft_ref.train.factors import Adapted


def check_record(folder: Path) -> PruningRecord:
    """Return the record of pruning of a folder, by which a merged model can be pruned again.

    Raises:
        AdapterError: ADP-012 without a record, or for one that does not say how many weights each matrix keeps.
        PruneError: PRN-008 as `read_record`.
    """
    record = record_of_folder(folder)
    if record is None:
        raise AdapterError("ADP-012", f"{folder} has no pruning.json that says how to prune the merged model; use lora")
    if record.get("method") not in METHODS:
        raise AdapterError("ADP-012", f"pruning.json names the method {record.get('method')!r}, none of {METHODS}")
    if across_matrices(record.get("scope")):
        raise AdapterError(
            "ADP-012", "the base was pruned across its matrices, so merged ones may keep other numbers; use lora"
        )
    if (scope := record.get("scope")) is not None and scope not in SCOPES[record["method"]]:
        raise AdapterError("ADP-012", f"pruning.json names scope {scope!r}, which {record['method']} does not have")
    if record["method"] in CALIBRATED and not record.get("calibration"):
        raise AdapterError("ADP-012", "pruning.json names no calibration windows; use lora")
    return record


def check_again(folder: Path, config: ModelConfig, stored: int, tokens: Sequence[int]) -> None:
    """Refuse a run at whose end the merged model of a folder could not be pruned again (ADP-012.4).

    stored  number of weights that the targets of the folder store
    tokens  the text on which a pruner will measure activations, if it measures any
    Raises  AdapterError ADP-012 as `check_record`, and for a base that stores more weights than its record says, or
            fewer and has no pattern; PruneError PRN-007 for a text shorter than a window
    """
    record, blocks = check_record(folder), config.num_hidden_layers
    if isinstance(rates := rates_of(record), list) and len(rates) != blocks:
        raise AdapterError("ADP-012", f"pruning.json has a sparsity for {len(rates)} blocks, the model has {blocks}")
    # ADP-012.4
    if {"removed", "of"} <= record.keys():
        keeps = record["of"] - record["removed"]
        if stored > keeps or (stored < keeps and pattern_of(record) is None):
            raise AdapterError(
                "ADP-012",
                f"{folder} stores {stored} weights, and its pruning.json says that {keeps} were kept; use lora, or "
                "start from the model as it was pruned",
            )
    if windows := record.get("calibration"):
        try:
            windows_of(tokens, config, **windows)
        except (PruneError, TextError) as error:
            raise AdapterError(
                "ADP-012",
                f"the merged model is pruned again on the text of training, in windows of {windows['length']} tokens "
                f"as pruning.json says: {error.message}",
            ) from None


def prune_again(
    folder: Path,
    config: ModelConfig,
    targets: Mapping[str, Adapted],
    merged: Mapping[str, tuple[Topology, Array]],
    tokens: Sequence[int],
    kernels: KernelSet,
    like: Array,
) -> dict[str, tuple[Topology, Array]]:
    """Return the merged weights after pruning by the record of a folder; weights that stay keep their value (ADP-012).

    merged  the weight of every target, stored at every position
    tokens  the text on which a pruner measures activations, in the windows of the record, if it measures any
    like    an array of the library and on the device of the weights
    Raises  AdapterError ADP-012 as `check_record`; ADP-005 for a weight that is not finite, or as `kept_of_merged`
    """
    record = check_record(folder)
    of: dict[str, Any] = record.get("calibration") or {}
    batches = windows_of(tokens, config, **of) if of else []
    scope, pattern = cast("Scope | None", record.get("scope")), pattern_of(record)
    final: dict[str, tuple[Topology, Array]] = {}

    def weight(name: str) -> Array:
        topology, values = merged[name]
        dense = array_namespace(values).reshape(values, topology.shape)
        check_merged(dense)
        return dense

    with open_parameters(folder, to_numpy(like).dtype.name) as parameter:
        masks = masks_of(
            record["method"],
            config,
            lambda name: weight(name) if name in merged else from_numpy(parameter(name), like),
            [from_numpy(batch, like) for batch in batches],
            kernels,
            rates_of(record),
            pattern,
            scope,
            record.get("seed", 0),
        )
        for name, mask, *_ in masks:
            final[name] = kept_of_merged(targets[name].base.open(), weight(name), mask, patterned=pattern is not None)
    return final
