"""The generators of the vectors: ``python -m conformance.gen`` writes, ``--check`` compares.

A module is named after its area: select, update, event, kernels, layers, model, train, prune, quantise, adapters,
generate or files. Its AREAS lists functions, each of which returns the cases of one vector file. `numbers.py` gives
them random numbers. Expected answers come from `oracle`, never from the engine. Start with `select.py`.
"""
