"""Loads a model from a folder into arrays (chapter 13); `save` writes a fine-tuned one.

model = load_model("pruned-sparse", kernels)
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import formats
from formats.atomic import refuse_existing as refuse_existing
from formats.dialects.hf import HfFolder, open_hf
from formats.dialects.version_index import refuse_version
from formats.index import is_sparse
from formats.lazy import Lazy
from formats.validate import check_limit
from seft_ref.arrays.library import Array, NumpyArray, from_numpy
from seft_ref.errors import CheckpointError, ConfigError, GenerateError, KernelError, QuantiseError
from seft_ref.files.codes import dtype_of_codes, own_names, placed, read_quantised, stored_in, weights_in
from seft_ref.files.dtypes import SIXTEEN_BIT, computable, compute_dtype, limit_of
from seft_ref.kernels import KernelSet, Packed
from seft_ref.kernels.held import Coded
from seft_ref.matrix.bases import AnyBase, PackedBase, coded_base, compact_base, in_packed
from seft_ref.model.config import ModelConfig
from seft_ref.model.weights import Weights, assemble
from seft_ref.topology.csr import Topology, full, placed_like
from seft_ref.update.delta import Base


@dataclass(slots=True, eq=False)
class Model:
    """A loaded model: its config, its packed weights, and the base of every target.

    A base may share memory with the packed weights. A fine-tuning run reuses this memory, so the model is spent then.
    """

    config: ModelConfig
    weights: Weights = field(repr=False)
    bases: dict[str, AnyBase] = field(repr=False)
    """empty for a Hugging Face folder, because its matrices have no support to keep"""
    folder: Path | None = None
    """where it was loaded from; None for a model that was made in memory"""
    spent: bool = False
    """whether a run has begun that reuses the memory of the model, so that nothing else may read it"""

    def stored(self) -> int:
        """Return the number of stored weights of the targets."""
        return sum(base.nnz for base in self.bases.values())


def on_grid(model: Model) -> bool:
    """Return whether a model was loaded to stay on its grid (QNT-011)."""
    return any(isinstance(base.held_in, Coded) and base.held_in.exact for base in model.bases.values())


@contextmanager
def open_folder(path: str | Path) -> Iterator[formats.Reader | HfFolder]:
    """Open a sparse checkpoint or a Hugging Face folder; both readers map names to tensors and have `files`.

    Raises:
        CheckpointError: CKP-002 if there is no such folder or no model in it; also as `refuse_delta`.
    """
    path = Path(path)
    if path.exists():
        refuse_delta(path)
    if not path.is_dir():
        raise CheckpointError("CKP-002", f"there is no folder {path}")
    if is_sparse(path):
        with formats.open(path) as reader:
            yield reader
    else:
        with open_hf(path) as folder:
            yield folder


def read_config(files: Mapping[str, bytes]) -> ModelConfig:
    """Return the config among the companion files of a folder.

    Raises:
        ConfigError: MDL-006 if config.json is missing or not JSON; MDL-002 to MDL-006 for its content.
    """
    if "config.json" not in files:
        raise ConfigError("MDL-006", "the folder has no config.json; copy the model's there")
    return ModelConfig.from_json(_json_object(files, "config.json"))


def _json_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return the object in a companion file."""
    try:
        content = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise ConfigError("MDL-006", f"{name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError("MDL-006", f"{name} is not a JSON object")
    return content


def stop_tokens(path: str | Path) -> tuple[int, ...]:
    """Return the tokens that end a text, as the companion files of a folder name them (GEN-008).

    Raises:
        GenerateError: GEN-008 for an eos_token_id that is not a token; CheckpointError, ConfigError, FormatError for
            the folder.
    """
    with open_folder(path) as source:
        read_config(source.files)
        return stop_tokens_of(source.files)


def stop_tokens_of(files: Mapping[str, bytes]) -> tuple[int, ...]:
    """Return the tokens that end a text, as these companion files name them (GEN-008).

    Raises:
        GenerateError: GEN-008 for an eos_token_id that is not a token; ConfigError MDL-006 for a file that is not a
            JSON object.
    """
    for name in ("generation_config.json", "config.json"):
        named = _json_object(files, name).get("eos_token_id") if name in files else None
        if named is None:
            continue
        tokens = named if isinstance(named, list) else [named]
        if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in tokens):
            raise GenerateError("GEN-008", f"eos_token_id of {name} is {named!r}, must be a token or a list of them")
        return tuple(tokens)
    return ()


def config_and_stored(path: str | Path) -> tuple[ModelConfig, int]:
    """Return the config of a sparse checkpoint, and how many weights its targets store.

    Raises:
        CheckpointError: CKP-002 for a folder that is not sparse, or without one of its targets; ConfigError.
    """
    require_sparse(path)
    with formats.open(path) as reader:
        config = read_config(reader.files)
        check_names(config, reader)
        return config, sum(stored_in(reader, matrix.name) for matrix in config.targets())


@contextmanager
def open_parameters(path: str | Path, dtype: str | None) -> Iterator[Callable[[str], NumpyArray]]:
    """Open a folder and yield a function that reads a parameter by name, dense and in the dtype to compute with."""
    with open_folder(path) as source:
        yield lambda name: computable(name, formats.to_dense(tensor_in(source, name, dtype)), dtype)


def tensor_in(source: Mapping[str, formats.Tensor], name: str, dtype: str | None) -> formats.Tensor:
    """Return a tensor of a folder; for a quantised matrix its weights, in the dtype to compute with (QNT-002).

    Raises:
        CheckpointError: CKP-001 for a dtype that cannot be computed in; QuantiseError QNT-009; FormatError.
    """
    if not isinstance(source, formats.Reader) or name not in source.scales:
        return source[name]
    return weights_in(source, name, compute_dtype(name, dtype_of_codes(source), dtype))


def load_model(
    path: str | Path,
    kernels: KernelSet,
    dtype: str | None = None,
    *,
    compact: bool = False,
    exact: bool = False,
    like: Array | None = None,
    limit: int | None = None,
) -> Model:
    """Return the model in a folder, one tensor at a time (CKP-001 to CKP-003).

    dtype    dtype to compute with, float32 or float64; None for the stored one, with 16-bit floats as float32
    compact  keep the targets as they are stored, in 16 bits or as codes (CKP-008)
    exact    with compact and codes: round the weights that a run trains onto the grid in every step (QNT-011)
    like     an array of the library and on the device where the model goes, which the kernels must take; None for NumPy
    limit    bytes that all tensors of a sparse checkpoint may take together once expanded (FMT-098); None bounds each
    Raises   CheckpointError CKP-002 for missing, misshapen or unknown tensors, CKP-003 for NaN, CKP-008 for targets
             that cannot be held as they are stored; QuantiseError QNT-011 for `exact`; ConfigError; FormatError
    """
    template = np.zeros(0) if like is None else like
    if exact and not compact:
        raise ValueError("exact is for models that are held as codes; set compact")
    with open_folder(path) as source:
        if exact and not getattr(source, "scales", {}):
            raise QuantiseError("QNT-011", f"{path} is not quantised, so no run of it can stay on a grid")
        config = read_config(source.files)
        matrices = {matrix.name for matrix in config.targets()}
        if has_support := isinstance(source, formats.Reader):
            check_limit(_expanded_bytes(source, matrices), limit, str(path))
        check_names(config, source)
        dense: dict[str, Array] = {}
        packed: dict[str, Packed] = {}
        bases: dict[str, AnyBase] = {}
        limits: dict[str, float] = {}
        for name, shape in config.parameters().items():
            if name in matrices and compact and isinstance(source, formats.Reader) and name in source.scales:
                check_shape(name, source.info(name).shape, shape)
                bases[name], packed[name] = _codes(source, name, dtype, kernels, template, exact=exact)
                continue
            tensor = tensor_in(source, name, dtype)
            check_shape(name, tensor.shape, shape)
            if name in matrices:
                stored = with_values_in(name, tensor).values.dtype
                limits |= {} if (most := limit_of(name, stored, dtype)) == np.inf else {name: most}
            if name in matrices and compact:
                bases[name] = packed_base = _compact(name, tensor, dtype, kernels, template)
                packed[name] = packed_base.packed
                continue
            if name in matrices and has_support:
                base = _base(name, tensor, dtype, template)
                packed[name] = kernels.pack(base.topology, base.values)
                bases[name] = in_packed(base, packed[name], kernels)
                continue
            values = from_numpy(computable(name, formats.to_dense(tensor), dtype), template)
            if name in matrices or name == "lm_head.weight":
                packed[name] = kernels.pack_dense(values)
            else:
                dense[name] = values
        if config.tie_word_embeddings:
            packed["lm_head.weight"] = kernels.pack_dense(dense["model.embed_tokens.weight"])
    return Model(config, replace(assemble(config, dense, packed), limits=limits), bases, Path(path))


def _expanded_bytes(reader: formats.Reader, matrices: set[str]) -> int:
    """Return the bytes of a checkpoint's tensors in memory: matrices as stored, the others dense as F32 (FMT-098)."""
    others = sum(4 * reader.info(name).numel for name in reader.names() if name not in matrices)
    return reader.memory_bytes + others + sum(3 * reader.info(name).nnz for name in reader.scales)


def require_sparse(path: str | Path) -> None:
    """Refuse a folder that is not a sparse checkpoint, because its model has no support to keep.

    Raises:
        CheckpointError: CKP-002.
    """
    if not is_sparse(Path(path)):
        raise CheckpointError(
            "CKP-002", f'{path} is not a sparse checkpoint; make one with formats.convert({str(path)!r}, DST, "sparse")'
        )


def refuse_delta(path: str | Path) -> None:
    """Refuse a delta, or a version folder of slime or SGLang, in the place of a model.

    Raises:
        CheckpointError: CKP-002 for a delta; FormatError: FMT-168 for a version folder.
    """
    if not is_sparse(Path(path)):
        refuse_version(Path(path))
        return
    with formats.open(path) as reader:
        if reader.kind == "delta":
            raise CheckpointError("CKP-002", f"{path} is a delta, not a model; make one: seft apply BASE {path} OUT")


def check_companions(path: str | Path) -> None:
    """Verify the companions of a sparse checkpoint, which a run copies at its end.

    Raises:
        FormatError: FMT-094 or FMT-102 for one that is not as it was written.
    """
    with formats.open(path) as reader:
        _ = reader.files


def identity(path: str | Path) -> str:
    """Return the state digest of a sparse checkpoint, which does not depend on encodings (FMT-099)."""
    with formats.open(path) as reader:
        return reader.state_sha256


def check_names(config: ModelConfig, source: Mapping[str, formats.Tensor]) -> None:
    """Refuse a folder that lacks a tensor of the config, or has a tensor that is not in the config (CKP-002)."""
    names = own_names(source)
    needed = set(config.parameters())
    # some folders have the frequencies of RoPE as tensors; ignore these, because they follow from the config
    unknown = {name for name in names - needed if not name.endswith("rotary_emb.inv_freq")}
    if config.tie_word_embeddings and "lm_head.weight" in unknown:
        unknown.discard("lm_head.weight")
        table, head = (formats.to_dense(source[n]) for n in ("model.embed_tokens.weight", "lm_head.weight"))
        if table.tobytes() != head.tobytes():
            raise CheckpointError(
                "CKP-002",
                "tie_word_embeddings is set but lm_head.weight differs from the embedding; unset it",
            )
    if missing := sorted(needed - names):
        raise CheckpointError("CKP-002", f"the folder lacks {_few(missing)}")
    if unknown:
        raise CheckpointError("CKP-002", f"the config has no place for {_few(sorted(unknown))}")


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def check_shape(name: str, actual: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape than the config gives (CKP-002)."""
    if tuple(actual) != expected:
        raise CheckpointError("CKP-002", f"{name} is {_by(actual)}, the config needs {_by(expected)}")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _base(name: str, tensor: formats.Tensor, dtype: str | None, like: Array) -> Base:
    """Return the base of a target: the stored support, or all of a dense tensor (TOP-004)."""
    topology, values = topology_and_values(name, tensor)
    return Base(placed_like(topology, like), from_numpy(computable(name, values, dtype), like))


def _compact(name: str, tensor: formats.Tensor, dtype: str | None, kernels: KernelSet, like: Array) -> PackedBase:
    """Return the base of a target, stored in the 16 bits of its file (CKP-008)."""
    topology, values = topology_and_values(name, tensor)
    if values.dtype not in SIXTEEN_BIT or dtype == "float64":
        description = f"computed with in {dtype}" if dtype == "float64" else f"stored as {values.dtype}"
        raise CheckpointError(
            "CKP-008", f"{name} is {description}; only weights of 16 bits computed with in float32 can be held compact"
        )
    computable(name, values, dtype)  # called only because it refuses NaN and infinity
    return compact_base(placed_like(topology, like), values, kernels)


def _codes(
    source: formats.Reader, name: str, dtype: str | None, kernels: KernelSet, like: Array, *, exact: bool
) -> tuple[PackedBase, Packed]:
    """Return the base of a target that stays in codes, and the packed matrix that is multiplied (CKP-008)."""
    computed = compute_dtype(name, dtype_of_codes(source), dtype)
    if computed != np.float32:
        raise CheckpointError(
            "CKP-008", f"{name} is computed with in {computed}; only codes in float32 can be held compact"
        )
    codes, update = read_quantised(source, name)
    codes = replace(placed(codes, like), exact=exact)
    if exact and update is not None:
        raise QuantiseError("QNT-011", f"{name} has weights beside its codes; merge them into the grid first")
    try:
        if update is None:
            base = compact_base(codes.topology, codes, kernels)
            return base, base.packed
        topology, values = topology_and_values(name, weights_in(source, name, computed))
        return coded_base(Base(placed_like(topology, like), from_numpy(values, like)), codes, kernels)
    except KernelError as error:
        advice = "merge beside its codes, or into them at the end" if exact else "leave compact out"
        raise CheckpointError("CKP-008", f"{name} cannot be held as it is stored: {error}; {advice}") from error


def with_values_in(name: str, tensor: formats.Tensor) -> formats.Dense | formats.Sparse:
    """Return the tensor itself; raise CKP-002 with its name if it is a mask, which has no values."""
    if isinstance(tensor, formats.Mask):
        raise CheckpointError("CKP-002", f"{name} is a mask, which has no values")
    return tensor


def targets_in(path: str | Path) -> Mapping[str, tuple[Topology, NumpyArray]]:
    """Return for each target of a sparse checkpoint its support and its weights, which are read on access."""
    config, _ = config_and_stored(path)

    def read(name: str) -> tuple[Topology, NumpyArray]:
        with formats.open(path) as reader:
            topology, values = topology_and_values(name, tensor_in(reader, name, None))
            return topology, computable(name, values, None)

    return Lazy([matrix.name for matrix in config.targets()], read)


def topology_and_values(name: str, tensor: formats.Tensor) -> tuple[Topology, NumpyArray]:
    """Return the topology of a matrix and its values in slot order."""
    tensor = with_values_in(name, tensor)
    rows, columns = tensor.shape
    if isinstance(tensor, formats.Dense):
        return full((rows, columns), tensor.values), tensor.values.reshape(-1)
    return Topology((rows, columns), tensor.indptr, tensor.indices), tensor.values
