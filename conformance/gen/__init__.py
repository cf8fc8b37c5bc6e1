"""The generators of the vectors: ``python -m conformance.gen`` writes, ``--check`` compares.

A file is named after its area (select, update, event, kernels, layers, model, train, prune, adapters, generate, files)
and lists functions in AREAS, each of which makes one vector file. `numbers.py` makes their numbers. Expected answers
come from `oracle`, never from the engine. Start with `select.py`.
"""
