"""Matrices of integer codes: grids, rounding onto them, and merging an update into them (chapter 19 of SPEC.md).

grid    what a code stands for, and the code of a weight
gptq    rounding column by column, so that later columns make up for the errors of earlier ones
model   all matrices of a model
merge   what a fine-tuned matrix becomes: codes with an update beside them, or codes alone

Kernels hold such a matrix as codes, or as the weights that they stand for (CKP-008). Start with `grid.py`.
"""
