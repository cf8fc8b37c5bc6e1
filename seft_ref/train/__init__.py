"""The training loop (chapter 10 of SPEC.md).

settings   the settings of a run, from a preset and changes to it
start      where the first slots are
loop       one step after another
factors    the same for a run that trains adapters beside frozen weights
gradients  loss and gradients of a step
event      drop, grow and adapt in all matrices, after some steps
diagnose   warnings
memory     an estimate of what a run will need

Rules live in `seft_ref.update`, files in `seft_ref.files`. Start reading in `loop`.
"""
