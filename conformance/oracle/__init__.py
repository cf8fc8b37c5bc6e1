"""Expected results, worked out from SPEC.md alone: plain loops in binary64, apart from any engine.

A file is named after its area (select, update, event, kernels, layers, model, train, prune, quantise, adapters,
generate, files). `second_reader.py` and `second_folder.py` read files beside `formats`; `tape.py` records gradients,
`powers.py` says how far a power may be off. Cases are made in `gen`. Start with `select.py`.
"""
