"""Expected results, computed from SPEC.md alone by plain loops in binary64, independently of any engine.

A file is named after its area (select, update, event, kernels, layers, model, train, prune, quantise, adapters,
generate, files). `second_reader.py` and `second_folder.py` read files independently of `formats`. `tape.py` computes
gradients, `powers.py` the allowed error of powers. `gen` makes the cases. Start with `select.py`.
"""
