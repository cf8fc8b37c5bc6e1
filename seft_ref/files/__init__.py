"""Checkpoints in and out; no other folder of the engine opens one (chapter 13 of SPEC.md).

model            load a model
save             save a fine-tuned one
best             the best model so far, beside a run
codes            matrices of codes, in and out
state            save and load the state of a run
pruned           write a pruned model
finished_blocks  the blocks that a stopped pruning run has finished
quantised        write a quantised model
dtypes           which dtypes a file may have, and as what they are computed

The bytes of the files are in `formats`. Start reading in `model`.
"""
