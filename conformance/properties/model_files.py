"""Properties of models in files (CKP-002, CKP-003)."""

from math import prod

from conformance.answers.files_content import content
from conformance.oracle import model
from conformance.oracle.files import BITS, Tensor
from conformance.oracle.files_convert import NANS, packed
from conformance.oracle.train_around import FORMATS
from conformance.properties.draws import Draw
from conformance.properties.models import KINDS, TINY, drawn_config
from conformance.properties.trial import Trial, property_of

__all__: list[str] = []

_FAULTS = ("a tensor missing", "a tensor more", "another shape", "a NaN", "an infinity", "a head that is not tied")


def _tensor(d: Draw, shape: tuple[int, ...], dtype: str, *, sparse: bool) -> Tensor:
    """Return a tensor of small finite numbers, many of them 0."""
    size = prod(shape)
    at = d.subset(size) if sparse else range(size)
    one = {"F16": 0x3C00, "BF16": 0x3F80, "F32": 0x3F80_0000, "F64": 0x3FF << 52}[dtype]
    bits = packed(dtype, [one * k for k in d.integers(len(at), 0, 1)])
    return Tensor(dtype, shape, bits, tuple(divmod(i, shape[-1]) for i in at) if sparse else None)


@property_of(
    "checkpoint.open",
    "CKP-002 CKP-003",
    "checkpoints",
    "checkpoint.open",
    sees=("a sparse matrix", "a tensor that is ignored", "a tied head", "a fault"),
    cost=2,
)
def _open(d: Draw, t: Trial) -> None:
    """A model opens if it has exactly the tensors that its config gives, all of them finite."""
    config = TINY if d.flag() else drawn_config(d, d.choice(KINDS))
    if d.flag():
        config = config | {"tie_word_embeddings": True}
    dtype = d.choice(("F32", "F16", "BF16", "F64"))
    targets = {*model.targets(config)}
    tensors = {name: _tensor(d, shape, dtype, sparse=name in targets and d.flag())
               for name, shape in model.shapes(config).items()}  # fmt: skip
    t.saw("a sparse matrix", any(one.support is not None for one in tensors.values()))
    if d.flag():
        t.saw("a tensor that is ignored")
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = Tensor("F32", (2,), b"\xff" * 8)
    tied = bool(config.get("tie_word_embeddings"))
    if tied and d.flag():
        t.saw("a tied head")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    if d.flag(3):
        t.saw("a fault")
        _spoil(d, tensors, d.choice(_FAULTS))
    t.case("checkpoint.open", {"config": config, "tensors": content(tensors)})


def _spoil(d: Draw, tensors: dict[str, Tensor], fault: str) -> None:
    """Put a fault into the tensors of a model."""
    name = d.choice([name for name, one in tensors.items() if "inv_freq" not in name and one.bits])
    one = tensors[name]
    size = BITS[one.dtype] // 8
    if fault == "a tensor missing":
        del tensors[name]
    elif fault == "a tensor more":
        tensors[d.choice((f"{name}.more", "model.layers.9.mlp.up_proj.weight", "inv_freq"))] = one
    elif fault == "another shape":
        tensors[name] = Tensor(one.dtype, (prod(one.shape), 1), bytes(prod(one.shape) * size))
    elif fault == "a head that is not tied":
        tensors["lm_head.weight"] = Tensor("F32", (1, 1), bytes(4))
    else:
        digits, top, _ = FORMATS[one.dtype]
        infinity = (2 * top + 1) << (digits - 1)
        odd = NANS[one.dtype] if fault == "a NaN" else infinity | d.choice((0, 1)) << (8 * size - 1)
        at = size * d.integer(0, len(one.bits) // size - 1)
        bits = one.bits[:at] + odd.to_bytes(size, "little") + one.bits[at + size :]
        tensors[name] = Tensor(one.dtype, one.shape, bits, one.support)
