"""Same content, same bytes; the specification's own example; stock readers."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import formats
from formats import container, v1

ROOT = Path(__file__).parents[2]


def chapter() -> str:
    """The specification's chapter about files."""
    texts = [path.read_text() for path in ROOT.glob("SPEC*.md")]
    return next(text for text in texts if "## 12. Files (FMT)" in text)


def example() -> formats.Checkpoint:
    values = np.array([1.5, 0, -2], np.float16)
    w = formats.Sparse((2, 3), np.array([0, 2, 3]), np.array([0, 2, 1], np.int32), values)
    return formats.Checkpoint("model", {"w": w}, {"step": 7})


def example_bytes() -> bytes:
    dump = chapter().split("```hexdump\n")[1].split("```")[0]
    return bytes.fromhex("".join(line[6:53] for line in dump.splitlines()))


def test_FMT_080_the_example_of_the_specification_is_written_byte_for_byte(tmp_path):
    formats.write_file(tmp_path / "example.safetensors", example())
    assert (tmp_path / "example.safetensors").read_bytes() == example_bytes()


def test_the_example_of_the_specification_is_read(tmp_path, same):
    (tmp_path / "example.safetensors").write_bytes(example_bytes())
    back = formats.read(tmp_path / "example.safetensors")
    assert back.attributes == {"step": 7}
    assert same(back.tensors["w"], example().tensors["w"])


def test_FMT_090_FMT_091_FMT_092_the_digests_of_the_example_by_hand():
    raw = example_bytes()
    text = chapter().split("```json\n")[1].split("\n```")[0]
    manifest = json.loads(text)
    entry = manifest["tensors"]["w"]
    assert sha256(text.encode()).hexdigest() in chapter()
    values = bytes.fromhex("003e 0000 00c0")
    assert raw.endswith(values + bytes(58))
    assert entry["sections"]["mask"] == {"bytes": 2, "sha256": sha256(bytes.fromhex("05 02")).hexdigest()}
    assert entry["sections"]["values"] == {"bytes": 6, "sha256": sha256(values).hexdigest()}
    mask = sha256(bytes.fromhex("05 02")).hexdigest()
    content = '{"dtype":"F16","nnz":3,"shape":[2,3],"support":{"mask":"%s"},"values":"%s"}'
    content %= (mask, sha256(values).hexdigest())
    assert content in chapter()
    assert entry["content_sha256"] == sha256(content.encode()).hexdigest()


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("shard_bytes", [1, 10**9])
def test_FMT_080_the_order_of_what_is_given_does_not_matter(tmp_path, checkpoint, shard_bytes):
    attributes = {"b": {"y": 1, "x": [None, True]}, "a": "é\u2028\x01"}
    files = {"b.json": b"{}", "a.txt": b"\xff"}
    one = formats.Checkpoint("model", dict(checkpoint.tensors), attributes, {"t": "a", "s": "b"}, files)
    turned = [dict(reversed(d.items())) for d in (one.tensors, one.attributes, one.tied, one.files)]
    formats.write(tmp_path / "one", one, shard_bytes=shard_bytes)
    formats.write(tmp_path / "two", formats.Checkpoint("model", *turned), shard_bytes=shard_bytes)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


AGAIN = """
import sys
import formats
formats.write(sys.argv[2], formats.read(sys.argv[1]))
"""


def test_FMT_080_another_process_with_another_hash_seed_writes_the_same(tmp_path, checkpoint):
    formats.write(tmp_path / "one", checkpoint)
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", AGAIN, str(tmp_path / "one"), str(tmp_path / seed)],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        )
        assert tree(tmp_path / seed) == tree(tmp_path / "one")


@pytest.mark.parametrize("wanted", ["auto", "bitmask", "csr", "gap8", "varint"])
def test_a_stock_reader_opens_every_file(tmp_path, wanted):
    tensors = {name: formats.Dense(np.ones(3, dtype)) for name, dtype in container.DTYPES.items()}
    for name in container.DTYPES:
        tensors["sparse " + name] = formats.from_dense(np.eye(5, 9).astype(container.DTYPES[name]))
    formats.write(tmp_path / "c", formats.Checkpoint("model", tensors), encoding=wanted, shard_bytes=999)
    paths = sorted((tmp_path / "c").glob("*.safetensors"))
    assert len(paths) > 3
    seen = set()
    for path in paths:
        part = v1.PartReader(path)
        with safe_open(path, "pt") as file:
            assert file.metadata()["format"] == "pt"
            for key in file.keys():  # noqa: SIM118 - not a mapping
                seen.add(key)
                values = file.get_tensor(key)
                name, role = key.split("#", 1)
                if role == "values":
                    raw = values.reshape(-1).view(torch.uint8).numpy().tobytes()
                    assert raw == container.raw_bytes(part.load(name).values)
    assert {key.split("#")[0] for key in seen} == set(tensors)


def test_FMT_022_FMT_034_every_section_stands_at_a_multiple_of_64(tmp_path, checkpoint, good):
    n = int.from_bytes(good[:8], "little")
    assert (8 + n) % 64 == 0
    header = json.loads(good[8 : 8 + n])
    begins = [e["data_offsets"][0] for key, e in header.items() if "#" in key and not key.endswith("#pad")]
    assert begins
    assert all(begin % 64 == 0 for begin in begins)
    order = sorted((key for key in header if "#" in key), key=lambda key: header[key]["data_offsets"])
    assert order == [
        *("a#mask", "a#mask#pad", "a#values", "a#values#pad", "b#values", "b#values#pad"),
        *("c#col_idx", "c#col_idx#pad", "c#row_ptr", "c#row_ptr#pad", "c#values", "c#values#pad"),
    ]


def test_FMT_034_tensors_are_sorted_by_name_and_not_by_section_name(tmp_path):
    # "a!" sorts after "a", although "a!#values" sorts before "a#values"
    tensors = {"a!": formats.Dense(np.ones(1)), "a": formats.Dense(np.zeros(1))}
    formats.write(tmp_path / "c", formats.Checkpoint("model", tensors))
    with formats.open(tmp_path / "c") as reader:
        assert reader.names() == ["a", "a!"]
        assert reader["a!"].values.tolist() == [1]
    assert (tmp_path / "c" / "model.sparse.safetensors").read_bytes()[-128:-120] == bytes(8)


def test_FMT_034_a_section_that_ends_at_a_multiple_of_64_has_no_pad(tmp_path):
    formats.write(tmp_path / "c", formats.Checkpoint("model", {"a": formats.Dense(np.ones(8))}))
    with safe_open(tmp_path / "c" / "model.sparse.safetensors", "np") as file:
        assert list(file.keys()) == ["a#values"]


def test_FMT_028_canonical_text():
    value = {"b": [1, -2, None, True], "a": '\x00\b\t\n\f\r"\\/\x7fé\u2028😀', "é": {}, "z": {}}
    text = formats.strict_json.canonical(value)
    assert text == ('{"a":"\\u0000\\b\\t\\n\\f\\r\\"\\\\/\x7fé\u2028😀","b":[1,-2,null,true],"z":{},"é":{}}')
    assert formats.strict_json.parse(text.encode(), "it") == value
