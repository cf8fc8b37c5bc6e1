"""The decoder, as two lists: one read down, one read up (chapter 5 of SPEC.md).

config   what config.json says, and what is refused of it
weights  the tensors of a model by name; activations, what a forward keeps
decoder  forward and backward; head, the loss without its logits at once

Layers live in `seft_ref.layers`, files in `seft_ref.files`. Start reading in `decoder`.
"""
