"""Bad sections of nm, gap8, varint, packed values and zstd frames, each one edit away from a good twin."""

import struct

import ml_dtypes
import numpy as np
import pytest
import zstandard

import formats
from formats import compress, errors
from tests.formats.conftest import Pieces, write_mixed

u8 = lambda *x: np.array(x, np.uint8)  # noqa: E731


def on(shape, at, dtype=np.int8):
    mask = formats.from_flat(shape, np.array(at, np.int64))
    return formats.with_values(mask, np.arange(1, mask.nnz + 1).astype(dtype))


# n   [ 1 . 2 . | . . 3 4 ]   2:4, ranks 1 and 5 of 3 bits: 29      g   gaps 1, 600, 0: 01 ff ff 5a 00
#     [ . 5 6 . | 7 . . 8 ]         ranks 2 and 3:          1a      v   gaps 1, 600, 0: 01 d8 04 00
TENSORS = {
    "f": formats.Dense(np.array([1, 2, -1], ml_dtypes.float4_e2m1fn)),
    "g": on((3, 400), [1, 602, 603]),
    "n": on((2, 8), [0, 2, 6, 7, 9, 10, 12, 15]),
    "v": on((3, 400), [1, 602, 603]),
}


@pytest.fixture
def twin(tmp_path):
    encodings = {"g": "gap8", "n": "nm", "v": "varint"}
    return Pieces.of(write_mixed(tmp_path / "t.safetensors", formats.Checkpoint("model", TENSORS), encodings))


def test_the_good_twin_is_read(twin, opened, same):
    assert bytes(twin.data[twin.span("n#ranks")]) == bytes([0x29, 0x1A])
    assert bytes(twin.data[twin.span("g#gaps")]) == bytes.fromhex("01ffff5a00")
    assert bytes(twin.data[twin.span("v#gaps")]) == bytes.fromhex("01d80400")
    assert bytes(twin.data[twin.span("f#values")]) == bytes([0x42, 0x0A])
    back = opened(twin.pack()).tensors
    assert all(same(back[name], TENSORS[name]) for name in TENSORS)


def fill(section, *values):
    return lambda pieces: pieces.fill(section, u8(*values))


def resize(tensor, role, *values):
    """Put a section of another length in place; it stays below the next multiple of 64."""

    def change(pieces):
        name, begin = f"{tensor}#{role}", pieces.header[f"{tensor}#{role}"]["data_offsets"][0]
        pieces.manifest["tensors"][tensor]["sections"][role]["bytes"] = len(values)
        pieces.header[name].update(data_offsets=[begin, begin + len(values)], shape=[len(values)])
        pad = pieces.header[name + "#pad"]
        pad.update(data_offsets=[begin + len(values), begin + 64], shape=[64 - len(values)])
        pieces.data[begin : begin + 64] = bytes(64)
        pieces.fill(name, u8(*values))

    return change


def entry(tensor, **more):
    return lambda pieces: pieces.manifest["tensors"][tensor].update(more)


def pattern(axis=1, m=4, n=2):
    return entry("n", pattern={"axis": axis, "m": m, "n": n})


CASES = {
    "FMT_051_the_axis_exists": pattern(axis=2),
    "FMT_051_m_is_at_most_64": pattern(m=65),
    "FMT_051_n_is_below_m": pattern(n=4),
    "FMT_051_n_is_at_least_1": pattern(n=0),
    "FMT_051_m_divides_the_axis": pattern(m=3),
    "FMT_051_the_count_is_that_of_the_pattern": pattern(n=1),
    "FMT_051_no_dimension_is_0": entry("n", shape=[0, 8], nnz=0),
    "FMT_041_a_pattern_is_of_integers": pattern(n=True),
    "FMT_040_a_pattern_has_three_keys": entry("n", pattern={"m": 4, "n": 2}),
    "FMT_040_nm_has_a_pattern": lambda pieces: pieces.manifest["tensors"]["n"].pop("pattern"),
    "FMT_053_a_rank_says_which_of_6": fill("n#ranks", 0x29, 0b110_010),
    "FMT_072_no_bit_past_the_last_rank": fill("n#ranks", 0x29, 0x5A),
    "FMT_072_no_bit_past_the_last_value": fill("f#values", 0x42, 0x1A),
    "FMT_056_gap8_has_few_rows": entry("g", shape=[2**20 + 1, 400]),
    "FMT_056_varint_has_few_rows": entry("v", shape=[2**20 + 1, 400]),
    "FMT_057_gap8_has_a_byte_a_gap": resize("g", "gaps", 1, 2),
    "FMT_057_gap8_skips_no_more_than_there_is": resize("g", "gaps", 1, *[255] * 5, 0, 0),
    "FMT_057_varint_has_a_byte_a_gap": resize("v", "gaps", 1, 2),
    "FMT_057_varint_has_at_most_8_bytes_a_gap": resize("v", "gaps", *[128] * 24, 1),
    "FMT_058_gap8_has_a_gap_too_many": resize("g", "gaps", 1, 255, 2, 0, 0),
    "FMT_058_gap8_has_a_gap_too_few": fill("g#gaps", 1, 255, 255, 255, 0),
    "FMT_058_gap8_ends_with_a_gap": fill("g#gaps", 1, 255, 90, 0, 255),
    "FMT_058_varint_has_a_gap_too_many": fill("v#gaps", 1, 2, 4, 0),
    "FMT_058_varint_ends_with_a_gap": resize("v", "gaps", 1, 2, 4, 128),
    "FMT_059_gap8_stays_inside": resize("g", "gaps", 1, 255, 255, 255, 255, 177, 0),
    "FMT_059_varint_stays_inside": fill("v#gaps", 1, 0xAD, 9, 0),
    "FMT_059_varint_does_not_wrap": resize("v", "gaps", *[255] * 7, 127, *[255] * 7, 127, *[255] * 7, 127),
    "FMT_073_a_varint_has_no_needless_byte": resize("v", "gaps", 1, 0xD8, 0x84, 0, 0),
    "FMT_073_a_varint_has_at_most_8_bytes": resize("v", "gaps", 1, *[128] * 8, 1, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_sections(case, twin, opened, refused):
    CASES[case](twin)
    with refused:
        opened(twin.pack(), verify=False)


def test_FMT_059_a_sum_beyond_63_bits_is_noticed():
    # 128 gaps of 2^56 - 1 come to 2^63 and more, where the sum turns negative and rises again
    mask = formats.Mask((1, 10), np.array([0, 300]), np.zeros(300, np.int32))
    raw = {"gaps": np.frombuffer((b"\xff" * 7 + b"\x7f") * 300, np.uint8)}
    from formats.encodings import gaps
    from formats.header import Entry

    with pytest.raises(formats.FormatError, match="FMT-059"):
        gaps.decode_varint(Entry("NONE", (1, 10), "varint", mask.nnz, "", {}), "w", raw, (0, 1))


# compression -------------------------------------------------------------------------------------


@pytest.fixture
def compressed(tmp_path):
    """One F32 matrix of 60 positions whose values are all 1: the frame is far smaller than its 240 bytes."""
    values = formats.with_values(formats.from_flat((4, 300), np.arange(60) * 7), np.ones(60, np.float32))
    formats.write_file(tmp_path / "z.safetensors", formats.Checkpoint("model", {"w": values}), compress="zstd")
    return Pieces.of((tmp_path / "z.safetensors").read_bytes())


def test_FMT_140_values_are_split_into_planes(compressed, opened):
    entry = compressed.manifest["tensors"]["w"]
    assert compressed.manifest["requires"] == ["zstd"]
    frame = bytes(compressed.data[compressed.span("w#values")])
    assert entry["sections"]["values"]["raw_bytes"] == 240
    planes = np.ones(60, np.float32).view(np.uint8).reshape(60, 4).T.tobytes()
    assert zstandard.ZstdDecompressor().decompress(frame) == planes
    assert opened(compressed.pack()).tensors["w"].values.tolist() == [1.0] * 60


def test_FMT_141_what_does_not_shrink_or_shrinks_too_much_is_kept_as_it_is(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 500).astype(np.uint8)
    zeros = np.zeros(3_000_000, np.uint8)
    checkpoint = formats.Checkpoint("model", {"noise": formats.Dense(noise), "zeros": formats.Dense(zeros)})
    formats.write_file(tmp_path / "z.safetensors", checkpoint, compress="zstd")
    with formats.open(tmp_path / "z.safetensors") as reader:
        assert (reader.info("noise").nbytes, reader.info("zeros").nbytes) == (500, 3_000_000)


def frame(pieces, data, raw_bytes=240):
    """Put another frame into the section of the values."""
    stored = pieces.manifest["tensors"]["w"]["sections"]["values"]
    stored.update(bytes=len(data), raw_bytes=raw_bytes)
    begin = pieces.header["w#values"]["data_offsets"][0]
    pieces.header["w#values"].update(data_offsets=[begin, begin + len(data)], shape=[len(data)])
    end = begin + -(-len(data) // 64) * 64
    pieces.header["w#values#pad"].update(data_offsets=[begin + len(data), end], shape=[end - begin - len(data)])
    pieces.data[begin:] = bytes(end - begin)
    pieces.fill("w#values", np.frombuffer(data, np.uint8))


PLANES = np.ones(60, np.float32).view(np.uint8).reshape(60, 4).T.tobytes()


def packed(data, **options):
    return zstandard.ZstdCompressor(**options).compress(data)


def without_size():
    return zstandard.ZstdCompressor(write_content_size=False).compress(PLANES)


FRAMES = {
    "FMT_142_a_frame": lambda: b"no frame at all",
    "FMT_142_the_stated_size": lambda: packed(PLANES + b"\0"),
    "FMT_142_a_size_is_stated": without_size,
    "FMT_142_no_checksum": lambda: packed(PLANES, write_checksum=True),
    "FMT_142_nothing_follows": lambda: packed(PLANES) + b"\0",
    "FMT_142_one_frame": lambda: packed(PLANES) + packed(b""),
    "FMT_142_a_whole_frame": lambda: packed(PLANES)[:-3],
    "FMT_142_a_frame_that_keeps_its_word": lambda: struct.pack("<IBB", 0xFD2FB528, 0x20, 240) + b"\x0b\x00\x00\x01",
    "FMT_142_a_skippable_frame": lambda: struct.pack("<II", 0x184D2A50, 4) + bytes(4),
}


@pytest.mark.parametrize("case", FRAMES)
def test_frames(case, compressed, opened):
    frame(compressed, FRAMES[case]())
    with pytest.raises(formats.FormatError, match="FMT-142"):
        opened(compressed.pack(), verify=False)


@pytest.mark.parametrize("size", [240, 300])
def test_FMT_141_a_frame_is_smaller_than_its_content(compressed, opened, size):
    frame(compressed, bytes(size))
    with pytest.raises(formats.FormatError, match="FMT-141"):
        opened(compressed.pack())


def test_FMT_141_a_frame_is_not_too_small_to_be_true(compressed, opened):
    entry = compressed.manifest["tensors"]["w"]
    entry.update(shape=[4, 2**20], nnz=2**20)
    with pytest.raises(errors.FormatError, match=r"FMT-(049|057|141)"):
        opened(compressed.pack())
    with pytest.raises(formats.FormatError, match=r"FMT-141.*1024"):
        compress.check_size(10, 10_241, "w#values")
    compress.check_size(10, 10_240, "w#values")


def test_FMT_050_compression_is_told(compressed, opened):
    compressed.manifest["requires"] = []
    with pytest.raises(formats.FormatError, match="FMT-050"):
        opened(compressed.pack())


def test_FMT_043_another_codec_is_told(compressed, opened):
    compressed.manifest["tensors"]["w"]["sections"]["values"]["codec"] = "lz4"
    with pytest.raises(formats.FormatError, match=r"FMT-043.*lz4"):
        opened(compressed.pack())


@pytest.mark.parametrize(
    ("option", "tensor", "clause"),
    [
        ("nm", on((1, 6), [0, 1, 2]), "FMT-051"),
        ("nm:2:4", on((1, 8), [0, 1, 2, 4]), "FMT-051"),
        ("nm:2:4:0", on((1, 8), [0, 1, 4, 5]), "FMT-051"),
        ("nm:2:4:5", on((1, 8), [0, 1, 4, 5]), "FMT-051"),
        ("gap8", on((2**20 + 1, 1), [0]), "FMT-056"),
        ("nm:0:4", on((1, 8), [0]), "FMT-084"),
        ("coo", on((1, 8), [0]), "FMT-084"),
        ("dense", formats.from_support(np.ones(3, bool)), "FMT-082"),
    ],
)
def test_FMT_084_an_encoding_that_cannot_hold_a_tensor_is_refused(tmp_path, option, tensor, clause):
    with pytest.raises(formats.FormatError, match=clause):
        formats.write_file(tmp_path / "f.st", formats.Checkpoint("model", {"w": tensor}), encoding=option)
    assert list(tmp_path.iterdir()) == []


def test_FMT_084_a_codec_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(formats.FormatError, match="FMT-084"):
        formats.write_file(tmp_path / "f.st", formats.Checkpoint("model", {}), compress="lz4")


def test_FMT_098_an_expansion_has_a_limit():
    empty = formats.from_flat((2**20, 2**20), np.empty(0, np.int64))
    with pytest.raises(errors.ExpansionTooLarge, match="FMT-098"):
        formats.to_dense(formats.with_values(empty, np.empty(0, np.float32)))
    small = formats.with_values(formats.from_flat((3, 4), np.array([5])), np.ones(1, np.float32))
    with pytest.raises(errors.ExpansionTooLarge):
        formats.to_dense(small, limit=47)
    assert formats.to_dense(small, limit=48)[1, 1] == 1
