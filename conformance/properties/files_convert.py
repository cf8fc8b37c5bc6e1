"""Properties of conversion: folders of other tools that become sparse checkpoints (12.11)."""

from math import prod

from conformance.answers import answer
from conformance.answers.files_content import content
from conformance.oracle import files_convert, files_folders
from conformance.oracle.files import BITS, Tensor, on
from conformance.oracle.files_codes import integers
from conformance.oracle.files_convert import INDEX, SIGNS, WHOLE, dense, stock
from conformance.oracle.files_deltas import number
from conformance.oracle.train_around import FORMATS, rounded_bits
from conformance.properties.draws import Draw
from conformance.properties.foreign import ADAPTER, LORA, NAME, SPIEL, adapter, changing, files_of
from conformance.properties.trial import Trial, property_of

_NAMES = ("w", "model.layers.0.q.weight", "lm_head.weight", "é", "B", "a!", "a", "norm")
_FLOATS = ("F16", "BF16", "F32", "F64", *(name for name in SIGNS if name not in FORMATS))
_DTYPES = (*_FLOATS, "F8_E8M0", "I8", "U16", "BOOL", "I64", "C64")
_BESIDE = ("config.json", "tokenizer.json", "a.txt", ".hidden", "x.bin", "Y.PT", "folder/", ".git/", "b.onnx", "c-1_d")
_SHARDS = ("model-1.safetensors", "a.safetensors", "_x.y.safetensors")
_ENCODINGS = ("auto", "csr", "dense", "bitmask", "gap8")


def _tensor(d: Draw, cast: str | None) -> Tensor:
    """Return a dense tensor with many zeros of either sign."""
    dtype = d.choice(_FLOATS) if d.flag() or cast else d.choice(_DTYPES)
    shape = d.choice(((), (5,), (1, 9), (2, 8), (3, 4), (2, 2, 4), (16, 2), (0, 3), (3, 0)))
    width, n = BITS[dtype], prod(shape)
    sign, top = 1 << (width - 1), (1 << width) - 1 if dtype != "BOOL" else 1
    kinds = d.integers(n, 0, d.choice((3, 7, 20)))
    drawn = d.integers(n, 0, min(top, 2**40 - 1))
    # kind 0 and kinds above 3 give 0, kind 1 the top bit (−0.0 in a float), kind 2 the pattern 1, kind 3 drawn bits
    patterns = [(0, sign if dtype != "BOOL" else 1, 1, x)[k] if k < 4 else 0 for k, x in zip(kinds, drawn, strict=True)]
    if width == 64 and dtype != "C64":
        patterns = [x << 24 if k == 3 else x for k, x in zip(kinds, patterns, strict=True)]
    if dtype in FORMATS and cast is not None:
        # NaNs are left out, because a cast leaves their bits open (FMT-129)
        size = width // 8
        patterns = [x if number(dtype, x.to_bytes(size, "little")) == number(dtype, x.to_bytes(size, "little")) else 0
                    for x in patterns]  # fmt: skip
    return dense(dtype, shape, patterns)


def _model(d: Draw, cast: str | None) -> dict[str, Tensor]:
    """Return one to four tensors, without those that do not fill whole bytes (FMT-121)."""
    tensors = {name: _tensor(d, cast) for name in d.some(_NAMES, d.integer(1, 4))}
    return {name: t for name, t in tensors.items() if t.nnz * BITS[t.dtype] % 8 == 0}


@property_of(
    "convert.from_hf",
    "FMT-120 FMT-121 FMT-122 FMT-123 FMT-126 FMT-127 FMT-129",
    "convert",
    "convert.from_hf",
    sees=(
        "a −0.0 left out",
        "a tensor that stays dense",
        "shards",
        "a cast",
        "a value that does not fit",
        "an entry left out",
    ),
    cost=2,
)
def _from_hf(d: Draw, t: Trial) -> None:
    """A folder becomes the checkpoint that a conversion value by value gives."""
    cast = d.choice((None, None, "F16", "BF16", "F32", "F64"))
    tensors = _model(d, cast)
    parts: dict[str, dict[str, Tensor]] = {WHOLE: tensors}
    tree: dict[str, bytes] = {}
    if d.flag() and tensors:
        parts = {}
        for name in tensors:
            parts.setdefault(d.choice(_SHARDS), {})[name] = tensors[name]
        tree[INDEX] = files_convert.index({name: part for part, own in parts.items() for name in own})
        t.saw("shards", len(parts) > 1)
    tree |= {part: stock(own, {"format": "pt"} if d.flag() else None) for part, own in parts.items()}
    beside = {name: b"" if name.endswith("/") else bytes(d.integers(3, 0, 255)) for name in d.some(_BESIDE, 3)}
    options = {"encoding": d.choice(_ENCODINGS), "zeros": d.choice(("any", "positive"))}
    inputs = files_of(tree | beside, **options, **({"cast": cast} if cast else {}))
    made = answer("convert.from_hf", inputs)
    t.saw("a value that does not fit", made.refused)
    if not made.refused:
        t.saw("a cast", cast)
        t.saw("an entry left out", made.outputs["left_out"])
        t.saw("a −0.0 left out", "negative" in made.outputs["attributes"])
        stays = [name for name, one in made.outputs["tensors"].items() if one["columns"] is None]
        t.saw("a tensor that stays dense", stays and inputs["encoding"] == "auto")
    t.case("convert.from_hf", inputs)


@property_of(
    "convert.both-ways",
    "FMT-124 FMT-125 FMT-126",
    "convert",
    "convert.from_hf convert.to_hf",
    sees=("several shards", "one file", "a −0.0", "a cast"),
    cost=3,
)
def _both_ways(d: Draw, t: Trial) -> None:
    """A folder that is converted to a checkpoint and back has the same bits as before, or those of a cast."""
    tensors = _model(d, "F32")
    t.saw("a −0.0", any(SIGNS.get(one.dtype) in files_convert.words(one) for one in tensors.values()))
    companions = {"config.json": bytes(d.integers(4, 0, 255))} if d.flag() else {}
    encoding, tree = d.choice(_ENCODINGS), {WHOLE: stock(tensors)} | companions
    t.case("convert.from_hf", files_of(tree, encoding=encoding, zeros="positive"))
    sparse = files_convert.converted(tensors, encoding, "positive", None).tensors
    total = sum(len(one.bits) for one in tensors.values())
    part_bytes = max(1, d.choice((total, total - 1, 1, total // 2, 10**6)))
    t.saw("one file" if total <= part_bytes else "several shards")
    cast = d.choice((None, None, "F32", "F64"))
    t.saw("a cast", cast)
    inputs = files_of(files_folders.folder(sparse, companions=companions).pack(), part_bytes=part_bytes)
    if cast is not None:
        t.case("convert.to_hf", inputs | {"cast": cast})
        return
    # FMT-125: the expected bits are those that came in, not those of the oracle's own checkpoint
    beside = files_of(companions)["files"]
    t.case("convert.to_hf", inputs, {"files": {"tensors": content(tensors), "files": beside, "part_bytes": part_bytes}})


@property_of(
    "convert.adapter",
    "FMT-151 FMT-152",
    "convert",
    "convert.adapter",
    sees=("positions in any order", "a position that comes twice", "a sparse base", "a product"),
    cost=2,
)
def _adapter(d: Draw, t: Trial) -> None:
    """An adapter adds its amounts at its positions, or the product of its factors on the support of the base."""
    rows, columns = d.integer(1, 5), d.integer(1, 6)
    base = on("F32", (rows, columns), d.subset(rows * columns))
    if d.flag():
        places = [d.order(rows * columns)[i] for i in range(d.integer(1, rows * columns))]
        values = dense("F32", (len(places),), d.integers(len(places), 0, 2**32 - 1))
        if len(places) > 1 and d.flag(4):
            places[0] = places[-1]
        t.saw("positions in any order", places != sorted(places))
        own = {"sft_delta.indices": integers(places), "sft_delta.values": values}
        inputs = changing("spiel", adapter(SPIEL, own), {NAME: base})
        t.saw("a position that comes twice", answer(ADAPTER, inputs).refused)
    else:
        rank, alpha = d.integer(1, 4), d.integer(1, 40)
        a, b = (_reals(d, shape) for shape in ((rank, columns), (rows, rank)))
        config = LORA | {"r": rank, "lora_alpha": alpha, "use_rslora": d.flag()}
        inputs = changing("lora", adapter(config, {"lora_A.weight": a, "lora_B.weight": b}), {NAME: base})
        t.saw("a product")
        t.saw("a sparse base", answer(ADAPTER, inputs).outputs["left_out"][NAME])
    t.case(ADAPTER, inputs)


def _reals(d: Draw, shape: tuple[int, int]) -> Tensor:
    return dense("F32", shape, [rounded_bits(float(x), "F32") for x in d.real((prod(shape),))])


_SPOILT = ("a byte less", "a byte more", "bytes between tensors", "bytes of two tensors", "a name in another shard",
           "a shard that is missing", "a name that no shard has")  # fmt: skip


@property_of("convert.refused", "FMT-120 FMT-121", "convert", "convert.from_hf", sees=_SPOILT)
def _refused(d: Draw, t: Trial) -> None:
    """A folder whose files or index contradict each other is refused."""
    names = d.some(_NAMES, d.integer(2, 5))
    tensors = {name: Tensor("U8", (4,), bytes(d.integers(4, 0, 255))) for name in names}
    spoil = d.choice(_SPOILT)
    t.saw(spoil)
    if spoil in _SPOILT[:4]:
        tree, clause = {WHOLE: _spoilt_file(d, spoil, stock(tensors), len(names))}, "FMT-121"
    else:
        cut = d.integer(1, len(names) - 1)
        parts = dict(zip(_SHARDS, (names[:cut], names[cut:]), strict=False))
        places = {name: part for part, own in parts.items() for name in own}
        tree = {part: stock({name: tensors[name] for name in own}) for part, own in parts.items()}
        if spoil == _SPOILT[4]:
            places[names[0]] = _SHARDS[1]
        elif spoil == _SPOILT[5]:
            del tree[d.choice(_SHARDS[:2])]
        else:
            places["another"] = d.choice(_SHARDS[:2])
        tree[INDEX], clause = files_convert.index(places), "FMT-120"
    t.case("convert.from_hf", files_of(tree, encoding="auto", zeros="any"), refused=[clause])


def _spoilt_file(d: Draw, spoil: str, raw: bytes, count: int) -> bytes:
    """Return a file with one fault; each of its `count` tensors has 4 bytes."""
    if spoil == _SPOILT[0]:
        return raw[:-1]
    if spoil == _SPOILT[1]:
        return raw + b"\0"
    begin = 4 * d.integer(1, count - 1)
    size = int.from_bytes(raw[:8], "little")
    header, data = raw[8 : 8 + size], raw[8 + size :]
    at = begin + (1 if spoil == _SPOILT[2] else -1)
    # the offsets of the tensors from `begin` on move by one byte, forwards or back
    for place in range(4 * (count - 1), begin - 1, -4) if at > begin else range(begin, 4 * count, 4):
        moved = place + at - begin
        header = header.replace(f"[{place}, {place + 4}]".encode(), f"[{moved}, {moved + 4}]".encode())
    return files_convert.framed(header, data + b"\0" if at > begin else data[:-1])
