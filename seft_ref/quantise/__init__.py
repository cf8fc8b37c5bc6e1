"""Matrices of integer codes: grids, rounding onto them, and merging an update into them (chapter 19 of SPEC.md).

grid    converts between weights and codes
gptq    rounds a matrix column by column, so that later columns make up for the errors of earlier ones
model   rounds all target matrices of a model
merge   merges an update into a matrix: as weights beside the codes, or as new codes

Kernels store such a matrix as codes, or as the weights that they stand for (CKP-008). Start with `grid.py`.
"""
