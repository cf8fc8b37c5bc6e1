"""Expected results, computed from SPEC.md alone by plain loops in binary64, independently of any engine.

A file is named after its area (select, update, event, kernels, layers, model, train, prune, quantise, adapters,
generate, files). `second_reader.py` and `second_folder.py` read files independently of `formats`. `tape.py` computes
gradients, `powers.py` the allowed error of powers. `answers` asks them. Start with `select.py`.
"""

from pathlib import Path

_KIT = Path(__file__).resolve().parents[1]

SPEC = _KIT / "SPEC.md" if (_KIT / "SPEC.md").is_file() else _KIT.parent / "SPEC.md"
"""SPEC.md lies in the folder of the kit in a wheel, and at the root in a checkout."""
