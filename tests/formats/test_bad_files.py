"""One bad file a rule, each one edit away from a good twin."""

import json
import struct

import numpy as np
import pytest

from formats import FormatError


def test_the_good_twin_is_read_and_rebuilt_byte_for_byte(good, pieces, opened):
    assert pieces.pack() == good
    assert list(opened(good).tensors) == ["a", "b", "c"]


def header_length(n):
    return lambda raw: struct.pack("<Q", n) + raw[8:]


def split(raw):
    (n,) = struct.unpack("<Q", raw[:8])
    return raw[8 : 8 + n], raw[8 + n :]


def spell(old, new):
    """Replace text of the header and adjust its length and padding."""

    def change(raw, frame):
        header, data = split(raw)
        assert old in header
        return frame(header.rstrip(b" ").replace(old, new, 1)) + data

    return change


RAW = {
    "FMT_020_a_file_has_a_length": lambda raw, _: raw[:7],
    "FMT_021_the_header_is_within_the_limit": lambda raw, _: header_length(2**63)(raw),
    "FMT_021_the_header_is_within_the_file": lambda raw, _: header_length(len(raw))(raw),
    "FMT_022_the_header_is_aligned": lambda raw, _: (
        struct.pack("<Q", len(split(raw)[0]) + 8) + split(raw)[0] + b" " * 8 + split(raw)[1]
    ),
    "FMT_023_the_header_begins_with_a_brace": spell(b'{"__m', b' {"__m'),
    "FMT_022_the_header_has_at_least_1024_bytes": lambda raw, _: header_length(504)(raw),
    "FMT_023_the_padding_leads_to_the_next_power_of_two": lambda raw, _: (
        struct.pack("<Q", 2 * len(split(raw)[0]) + 8) + split(raw)[0].ljust(2 * len(split(raw)[0]) + 8) + split(raw)[1]
    ),
    "FMT_024_the_header_is_utf8": spell(b'"pt"', b'"\xff"'),
    "FMT_024_the_header_is_json": spell(b'"pt"', b'"pt'),
    "FMT_025_keys_are_unique": spell(b'"format":"pt"', b'"format":"pt","format":"pt"'),
    "FMT_026_numbers_have_no_point": spell(b'"shape":[3]', b'"shape":[3.0]'),
    "FMT_026_numbers_have_no_exponent": spell(b'"shape":[3]', b'"shape":[3e0]'),
    "FMT_026_there_is_no_nan": spell(b'"shape":[3]', b'"shape":[NaN]'),
    "FMT_026_numbers_are_below_2_to_53": spell(b'"shape":[3]', b'"shape":[9007199254740992]'),
    "FMT_026_numbers_of_many_digits_are_not_converted": spell(b'"shape":[3]', b'"shape":[' + b"9" * 5000 + b"]"),
    "FMT_027_nesting_ends_at_16": spell(b'"shape":[3]', b'"shape":' + b"[" * 20 + b"]" * 20),
    "FMT_027_nesting_does_not_exhaust_the_parser": spell(b'"shape":[3]', b'"shape":' + b"[" * 90000 + b"]" * 90000),
    "FMT_028_no_spaces": spell(b'"shape":[3]', b'"shape": [3]'),
    "FMT_028_sorted_keys": spell(b'"dtype":"BOOL","shape":[3]', b'"shape":[3],"dtype":"BOOL"'),
    "FMT_028_no_needless_escapes": spell(b'"pt"', b'"\\u0070t"'),
    "FMT_028_no_surrogates": spell(b'"pt"', b'"\\ud800"'),
    "FMT_028_no_negative_zero": spell(b'"data_offsets":[0,', b'"data_offsets":[-0,'),
    "FMT_029_the_format_is_pt": spell(b'"pt"', b'"mlx"'),
    "FMT_029_metadata_has_three_entries": spell(b'"format":"pt"', b'"a":"","format":"pt"'),
    "FMT_029_metadata_is_text": spell(b'"format":"pt"', b'"format":1'),
    "FMT_030_a_section_has_three_keys": spell(b'"shape":[3]', b'"shape":[3],"x":1'),
    "FMT_030_a_section_is_an_object": spell(b'"__metadata__":', b'"A#values":1,"__metadata__":'),
    "FMT_030_dimensions_are_not_negative": spell(b'"shape":[3]', b'"shape":[-3]'),
    "FMT_030_dimensions_are_not_booleans": spell(b'"shape":[3]', b'"shape":[true]'),
    "FMT_006_section_dtypes_are_in_the_table": spell(b'"BOOL"', b'"C128"'),
    "FMT_093_the_manifest_has_its_digest": spell(b'step\\":7', b'step\\":8'),
    "FMT_035_the_file_ends_with_its_last_section": lambda raw, _: raw + bytes(64),
    "FMT_035_the_file_is_complete": lambda raw, _: raw[:-1],
}


@pytest.mark.parametrize("case", RAW)
def test_bytes(case, good, opened, framed, refused):
    with refused:
        opened(RAW[case](good, framed), verify=False)


def put(*path):
    """Set a value of the manifest: the last argument, at the keys before it."""

    def change(pieces):
        *keys, last, value = path
        target = pieces.manifest
        for key in keys:
            target = target[key]
        target[last] = value

    return change


def drop(*path):
    def change(pieces):
        target = pieces.manifest
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]

    return change


def both(first, second):
    def change(pieces):
        first(pieces)
        second(pieces)

    return change


def rename_tensor(new):
    def change(pieces):
        pieces.manifest["tensors"][new] = pieces.manifest["tensors"].pop("b")

    return change


def no_columns(pieces):
    pieces.manifest["tensors"]["a"].update(shape=[2**31 - 1, 0], nnz=0)


def scalar(pieces):
    pieces.manifest["tensors"]["a"].update(shape=[], nnz=1)


HEX = "0" * 64
MANIFEST = {
    "FMT_040_unknown_keys_of_the_manifest": put("extra", 1),
    "FMT_040_missing_keys_of_the_manifest": drop("tied"),
    "FMT_040_unknown_keys_of_a_tensor": put("tensors", "a", "extra", 1),
    "FMT_040_missing_keys_of_a_tensor": drop("tensors", "a", "nnz"),
    "FMT_040_keys_of_a_companion": put("files", {"x": {"sha256": HEX}}),
    "FMT_041_tensors_is_an_object": put("tensors", []),
    "FMT_041_attributes_is_an_object": put("attributes", []),
    "FMT_041_nnz_is_no_boolean": put("tensors", "a", "nnz", True),
    "FMT_041_nnz_is_not_negative": put("tensors", "a", "nnz", -1),
    "FMT_041_shape_is_a_list": put("tensors", "a", "shape", "2x3"),
    "FMT_041_kind_is_a_string": put("kind", 1),
    "FMT_041_a_tied_name_is_a_string": put("tied", "alias", 1),
    "FMT_042_another_major_version": put("spec", "2.0"),
    "FMT_042_a_version_is_canonical": put("spec", "1.00"),
    "FMT_042_a_later_version_may_lack_a_key": both(put("spec", "2.0"), drop("kind")),
    "FMT_043_a_later_feature_may_take_a_key_away": both(put("requires", ["time-travel"]), drop("optional")),
    "FMT_043_a_required_feature_is_known": put("requires", ["time-travel"]),
    "FMT_044_features_are_sorted": put("optional", ["b", "a"]),
    "FMT_044_features_are_named_once": put("optional", ["a", "a"]),
    "FMT_044_features_are_names": put("requires", [1]),
    "FMT_045_the_encoding_is_known": put("tensors", "a", "encoding", "coo"),
    "FMT_046_the_support_fits_the_shape": put("tensors", "a", "nnz", 7),
    "FMT_046_a_dense_support_is_full": put("tensors", "b", "nnz", 2),
    "FMT_047_digests_are_lower_case": put("tensors", "a", "content_sha256", "A" * 64),
    "FMT_047_digests_have_64_digits": put("tensors", "a", "sections", "mask", "sha256", "0" * 63),
    "FMT_048_a_part_is_no_checkpoint": put("part", 1),
    "FMT_006_dtypes_are_in_the_table": put("tensors", "b", "dtype", "F5"),
    "FMT_007_rank_is_at_most_8": put("tensors", "b", "shape", [1] * 9),
    "FMT_007_elements_are_below_2_to_53": put("tensors", "b", "shape", [2**40, 0, 2**40]),
    "FMT_008_a_sparse_tensor_has_an_axis": scalar,
    "FMT_008_columns_are_below_2_to_31": put("tensors", "c", "shape", [3, 2**31]),
    "FMT_008_rows_are_below_2_to_31": put("tensors", "c", "shape", [2**31, 700]),
    "FMT_009_names_are_not_empty": rename_tensor(""),
    "FMT_009_names_have_no_hash": rename_tensor("b#mask"),
    "FMT_009_names_have_no_control_character": rename_tensor("b\x7f"),
    "FMT_009_names_have_at_most_512_bytes": rename_tensor("é" * 257),
    "FMT_010_a_tied_name_is_not_stored": put("tied", "b", "a"),
    "FMT_010_a_tied_name_stands_for_a_stored_one": put("tied", "alias", "z"),
    "FMT_012_kind_is_a_word": put("kind", "My model"),
    "FMT_013_companions_are_file_names": put("files", {"../x": {"bytes": 1, "sha256": HEX}}),
    "FMT_013_companions_are_no_weights": put("files", {"model.SafeTensors": {"bytes": 1, "sha256": HEX}}),
    "FMT_013_companions_differ_without_case": put(
        "files", {"a": {"bytes": 1, "sha256": HEX}, "A": {"bytes": 1, "sha256": HEX}}
    ),
    "FMT_014_companions_are_small": put("files", {"x": {"bytes": 50_000_001, "sha256": HEX}}),
    "FMT_027_attributes_end_at_15_levels": put("attributes", "x", json.loads("[" * 15 + "]" * 15)),
    "FMT_031_an_entry_lists_its_roles": drop("tensors", "a", "sections", "mask"),
    "FMT_031_an_entry_lists_no_other_roles": put("tensors", "a", "sections", "row_ptr", {"bytes": 1, "sha256": HEX}),
    "FMT_031_every_tensor_has_its_sections": rename_tensor("bb"),
    "FMT_064_a_bitmask_has_columns": no_columns,
    "FMT_032_every_section_has_its_tensor": drop("tensors", "c"),
    "FMT_033_section_dtypes_follow_from_the_tensor": put("tensors", "a", "dtype", "BF16"),
    "FMT_040_keys_of_a_section": put("tensors", "a", "sections", "mask", "note", 1),
    "FMT_040_keys_of_a_compressed_section": put("tensors", "a", "sections", "mask", "codec", "zstd"),
    "FMT_040_a_pattern_belongs_to_nm": put("tensors", "a", "pattern", {"axis": 1, "m": 4, "n": 2}),
    "FMT_040_a_delta_belongs_to_its_kind": put("delta", {}),
    "FMT_049_the_size_of_a_section_follows_from_the_count": put("tensors", "a", "nnz", 2),
    "FMT_049_the_size_of_a_section_is_that_of_the_plan": put("tensors", "a", "sections", "mask", "bytes", 3),
    "FMT_050_no_feature_without_use": put("requires", ["zstd"]),
    "FMT_016_scales_belong_to_stored_tensors": put("scales", {"z": {"scale": "a"}}),
    "FMT_016_scales_are_stored": put("scales", {"a": {"scale": "z"}}),
    "FMT_016_a_tensor_is_not_its_own_scale": put("scales", {"a": {"scale": "a"}}),
    "FMT_016_no_empty_scales": put("scales", {"a": {}}),
    "FMT_016_roles_are_words": put("scales", {"a": {"Scale": "b"}}),
    "FMT_017_a_mask_is_not_dense": put("tensors", "b", "dtype", "NONE"),
}


@pytest.mark.parametrize("case", MANIFEST)
def test_manifest(case, pieces, opened, refused):
    MANIFEST[case](pieces)
    with refused:
        opened(pieces.pack(), verify=False)


def move(section, by):
    def change(pieces):
        entry = pieces.header[section]
        entry["data_offsets"] = [x + by for x in entry["data_offsets"]]

    return change


def alias(section, other):
    def change(pieces):
        pieces.header[section]["data_offsets"] = pieces.header[other]["data_offsets"]

    return change


def without(section):
    return lambda pieces: pieces.header.pop(section)


def extra(pieces):
    pieces.header["zz"] = {"data_offsets": [0, 0], "dtype": "U8", "shape": [0]}


def resize_pad(pieces):
    pieces.header["a#mask#pad"]["shape"] = [61]


HEADER = {
    "FMT_031_no_section_is_missing": without("a#values"),
    "FMT_031_no_pad_is_missing": without("a#mask#pad"),
    "FMT_032_no_section_is_left_over": extra,
    "FMT_033_a_pad_has_its_length": resize_pad,
    "FMT_034_sections_stand_in_their_place": move("b#values", 64),
    "FMT_034_sections_do_not_overlap": alias("c#values", "a#values"),
    "FMT_034_offsets_are_within_the_file": move("c#values", 2**50),
}


@pytest.mark.parametrize("case", HEADER)
def test_header(case, pieces, opened, refused):
    HEADER[case](pieces)
    with refused:
        opened(pieces.pack(), verify=False)


def fill(section, values):
    return lambda pieces: pieces.fill(section, values)


def soil_pad(pieces):
    pieces.data[pieces.span("a#mask#pad").stop - 1] = 1


u8 = lambda *x: np.array(x, np.uint8)  # noqa: E731
u16 = lambda *x: np.array(x, np.uint16)  # noqa: E731
u32 = lambda *x: np.array(x, np.uint32)  # noqa: E731

# the good file has the mask 101 010, the row pointers 0 2 2 3 and the columns 4 9 | 650
DATA = {
    "FMT_036_pads_are_zero": soil_pad,
    "FMT_062_tail_bits_are_zero": fill("a#mask", u8(0b1001, 0b010)),
    "FMT_063_popcount_must_equal_nnz": fill("a#mask", u8(0b111, 0b010)),
    "FMT_066_row_pointers_begin_at_0": fill("c#row_ptr", u32(1, 2, 2, 3)),
    "FMT_066_row_pointers_end_at_nnz": fill("c#row_ptr", u32(0, 2, 2, 4)),
    "FMT_067_row_pointers_never_fall": fill("c#row_ptr", u32(0, 2, 1, 3)),
    "FMT_067_row_pointers_never_overshoot": fill("c#row_ptr", u32(0, 2**32 - 1, 2, 3)),
    "FMT_068_columns_exist": fill("c#col_idx", u16(4, 9, 700)),
    "FMT_069_columns_increase": fill("c#col_idx", u16(9, 4, 650)),
    "FMT_069_columns_do_not_repeat": fill("c#col_idx", u16(4, 4, 650)),
    "FMT_070_a_bool_is_0_or_1": fill("b#values", u8(1, 2, 0)),
}


@pytest.mark.parametrize("case", DATA)
def test_data(case, pieces, opened, refused):
    DATA[case](pieces)
    with refused:
        opened(pieces.pack(), verify=False)


def test_a_column_may_fall_between_rows(pieces, opened):
    pieces.fill("c#col_idx", u16(4, 9, 3))
    assert opened(pieces.pack(), verify=False).tensors["c"].indices.tolist() == [4, 9, 3]


def test_FMT_090_a_section_has_its_digest(pieces, opened):
    pieces.data[pieces.span("b#values")] = bytes([1, 1, 1])
    raw = pieces.pack()
    assert opened(raw, verify=False).tensors["b"].values.tolist() == [True, True, True]
    with pytest.raises(FormatError, match="FMT-090"):
        opened(raw, verify=True)


def test_FMT_091_a_tensor_has_its_content_digest(pieces, opened):
    pieces.fill("a#mask", u8(0b011, 0b010))
    raw = pieces.pack()
    assert opened(raw, verify=False).tensors["a"].indices.tolist() == [0, 1, 1]
    with pytest.raises(FormatError, match="FMT-091"):
        opened(raw, verify=True)


def test_FMT_042_later_minor_versions_and_optional_features_are_read(pieces, opened):
    pieces.manifest["spec"] = "1.3"
    pieces.manifest["optional"] = ["later", "luxury"]
    assert list(opened(pieces.pack()).tensors) == ["a", "b", "c"]


def test_FMT_042_a_later_version_is_told_before_its_unknown_keys(pieces, opened):
    pieces.manifest.update(spec="1.9", requires=["later"], novelty=1)
    with pytest.raises(FormatError, match="FMT-043"):
        opened(pieces.pack(), verify=False)
