"""Pruners of a dense model: pure functions from a weight to a mask of the weights that stay (chapter 11 of SPEC.md).

keep        masks by exact counts: scopes, N:M patterns
magnitude, random, wanda, sparsegpt   the pruners of one matrix
owl         a sparsity for each block
blockwise   pruning of all matrices of a model
record      the record of pruning that a pruned model carries

`update/adapt.py` prunes at an event. Start with `keep.py`, then `wanda.py`.
"""
