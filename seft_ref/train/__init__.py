"""The training loop (chapter 10 of SPEC.md).

settings   the settings of a run, from a preset and changes to it
start      chooses the first slots
loop       the loop over the steps
factors    the loop of a run that trains adapters beside frozen weights
gradients  loss and gradients of a step
event      drop, grow and adapt in all matrices, after some steps
diagnose   warnings
memory     estimates the memory of a run

Rules live in `seft_ref.update`, files in `seft_ref.files`. Start reading in `loop`.
"""
