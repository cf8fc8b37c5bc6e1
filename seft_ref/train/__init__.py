"""The training loop (chapter 10 of SPEC.md).

settings   what a run is told; start, its first slots
loop       steps, one by one; gradients, the loss and the gradients of one; event, what follows some of them
diagnose   warnings; memory, what a run will take

Rules live in `seft_ref.update`, files in `seft_ref.files`. Start reading in `loop`.
"""
