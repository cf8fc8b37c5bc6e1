"""Files and folders of other libraries, through `formats.dialects`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import formats
from conformance.engine.files import described, encoded, tensor_of
from conformance.engine.files_convert import laid_out
from conformance.engine.values import Values, work_folder
from formats.dialects import hf
from formats.dialects.compressed_tensors import open_compressed_tensors
from formats.digest import of_bytes


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: of_bytes(files[name]) for name in files if name != hf.CONFIG}


def _bitmasks(a: Values) -> Values:
    with work_folder() as place:
        source, target = laid_out(Path(place) / "source", a), Path(place) / "target"
        # `formats.convert` would also make dense tensors sparse (FMT-122)
        formats.write(target, open_compressed_tensors(source))
        with formats.open(target) as reader:
            return {
                "tensors": {name: described(reader.load_verified(name)) for name in reader.names()},
                "companions": _digests(reader.files),
                "config": encoded(json.loads(reader.files[hf.CONFIG])),
            }


def _pack_bitmasks(a: Values) -> Values:
    companions = {name: raw.tobytes() for name, raw in a["files"].items()}
    tensors = {name: tensor_of(t) for name, t in a["tensors"].items()}
    with work_folder() as place:
        source, target = Path(place) / "source", Path(place) / "target"
        formats.write(source, formats.Checkpoint("model", tensors, files=companions))
        remarks = formats.convert(source, target, "compressed-tensors")
        with hf.open_hf(target) as folder:
            config = json.loads(folder.files[hf.CONFIG])
            return {
                "names": sorted(folder, key=str.encode),
                "tensors": {name: described(folder[name]) for name in folder if not name.endswith(".row_offsets")},
                "companions": _digests(folder.files),
                "format": config.pop("quantization_config")["sparsity_config"]["format"],
                "config": encoded(config),
                "zeros": sum(int(n) for n in re.findall(r"that (\d+) places", " ".join(remarks))),
            }


OPERATIONS: dict[str, Any] = {
    "convert.bitmasks": _bitmasks,
    "convert.pack_bitmasks": _pack_bitmasks,
}
