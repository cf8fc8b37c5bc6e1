"""The generators of the vectors: ``python -m conformance.gen`` writes, ``--check`` compares."""
