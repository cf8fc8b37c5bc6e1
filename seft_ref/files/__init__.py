"""Reads and writes checkpoints; no other folder of the engine does (chapter 13 of SPEC.md).

model            loads a model
save             saves a fine-tuned model
best             keeps the best model of a run so far
codes            reads and writes matrices of codes
state            saves and loads the state of a run
only_run         refuses a second run at the place of a first
pruned           writes a pruned model
finished_blocks  keeps the blocks that a stopped pruning run has finished
quantised        writes a quantised model
dtypes           converts between the dtypes of files and of computation

The bytes of the files are in `formats`. Start reading in `model`.
"""
