"""Checkpoints in and out; no other folder of the engine opens one (chapter 13 of SPEC.md).

model   load a model
save    save a fine-tuned one
codes   matrices of codes, in and out
state   save and load the state of a run
pruned  write a pruned model
quantised  write a quantised model

The bytes of the files are in `formats`. Start reading in `model`.
"""
