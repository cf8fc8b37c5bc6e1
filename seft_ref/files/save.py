"""Saves a fine-tuned model to a new folder, from the folder that it was loaded from (chapter 13, QNT-006, QNT-007).

save_model("pruned-sparse", "repaired-sparse", finish(...))
"""

from collections.abc import Mapping
from pathlib import Path

import formats
from formats.dialects.coded import UPDATE
from formats.lazy import Lazy
from seft_ref.arrays.library import Array, to_numpy
from seft_ref.errors import CheckpointError
from seft_ref.files.codes import own_names, read_quantised, stored_in, tensors_of
from seft_ref.files.dtypes import in_file_dtype
from seft_ref.files.model import open_folder, with_values_in
from seft_ref.prune.record import RECORD
from seft_ref.quantise.merge import Counts, beside, check_merge, in_grid
from seft_ref.topology.csr import Topology, as_numpy, flat, from_flat

Final = Mapping[str, tuple[Topology, Array]]
"""For each target its support and the values on it, as `train.finish` returns them, on any device."""


def save_model(
    source: str | Path,
    destination: str | Path,
    final: Final,
    attributes: Mapping[str, str] | None = None,
    *,
    merge: str = "beside",
) -> Counts:
    """Write the model of a sparse folder with new targets and everything else bit for bit (CKP-004, CKP-005).

    attributes  further attributes of the file, which record how the model was made
    merge       where the update of a quantised matrix goes: ``"beside"`` its codes, or into their ``"grid"``;
                ``"grid-exact"`` merges as ``"grid"``
    Returns     counts of the update of quantised matrices (QNT-007.4), zeros if there are none
    Raises      CheckpointError CKP-002 if source is no sparse folder, CKP-004 if a value does not fit the dtype of its
                matrix; QuantiseError QNT-006 for an unknown `merge`, QNT-009 for codes that cannot be read; FormatError
                if destination exists
    """
    check_merge(merge)
    with open_folder(source) as reader:
        if not isinstance(reader, formats.Reader):
            raise CheckpointError("CKP-002", f"{source} is a Hugging Face folder; convert it first")
        coded = [name for name in reader.scales if name in final]
        writer = _Coded(reader, final, merge)
        updates = {f"{name}.{UPDATE}": name for name in coded}
        scales = {name: dict(roles) for name, roles in reader.scales.items()}
        for name in coded:
            scales[name] = {role: part for role, part in scales[name].items() if role != UPDATE}
            scales[name] |= {UPDATE: f"{name}.{UPDATE}"} if merge == "beside" else {}
        gone = {roles[UPDATE] for name, roles in reader.scales.items() if name in final and UPDATE in roles}
        names = (set(reader.names()) - gone) | (set(updates) if merge == "beside" else set())

        def make(name: str) -> formats.Tensor:
            if name in updates:
                return writer.parts(updates[name])[UPDATE][1]
            if name in coded:
                return writer.parts(name)[""][1]
            original = with_values_in(name, reader[name])
            if name not in final:
                return original  # CKP-005
            topology, values = final[name]
            on_host = as_numpy(topology)  # CKP-009
            stored = in_file_dtype(name, to_numpy(values), original.dtype)
            return formats.Sparse(on_host.shape, on_host.indptr, on_host.indices, stored)

        files = dict(reader.files)
        before = {name: stored_in(reader, name) for name in own_names(reader)}
        if sum(final[name][0].nnz if name in final else n for name, n in before.items()) > sum(before.values()):
            files.pop(RECORD, None)  # CKP-005.3
        recorded = dict(reader.attributes) | dict(attributes or {})
        checkpoint = formats.Checkpoint("model", Lazy(names, make), recorded, dict(reader.tied), files, scales)
        formats.write(destination, checkpoint)
        return writer.counts


class _Coded:
    """Makes the tensors of quantised matrices, one matrix at a time, and counts how their updates were merged."""

    def __init__(self, reader: formats.Reader, final: Final, merge: str) -> None:
        self._reader, self._final, self._merge = reader, final, merge
        self._made: tuple[str, dict[str, tuple[str, formats.Tensor]]] = "", {}
        self._counts: dict[str, Counts] = {}

    @property
    def counts(self) -> Counts:
        """The sum of the counts of all matrices; a matrix counts once even if it was made several times."""
        return sum(self._counts.values(), Counts())

    def parts(self, name: str) -> dict[str, tuple[str, formats.Tensor]]:
        """Return the tensors of a matrix by role; the tensors of the last matrix are cached."""
        if self._made[0] != name:
            self._made = name, self._merged(name)
        return self._made[1]

    def _merged(self, name: str) -> dict[str, tuple[str, formats.Tensor]]:
        matrix, _ = read_quantised(self._reader, name)
        topology, values = as_numpy(self._final[name][0]), to_numpy(self._final[name][1])
        values = in_file_dtype(name, values, values.dtype)
        if self._merge != "beside":
            merged, counts = in_grid(matrix, topology, values)
            update = None
        else:
            merged, differs, counts = beside(matrix, topology, values)
            support = from_flat(topology.shape, flat(topology)[differs])
            update = formats.Sparse(support.shape, support.indptr, support.indices, values[differs])
        self._counts[name] = counts
        return tensors_of(name, merged, update)
