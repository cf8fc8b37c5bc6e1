"""The decoder of the LLaMA family (chapter 5 of SPEC.md).

config       reads and checks config.json
weights      the weights of a model, put together from named parameters
decoder      forward and backward
head         the loss, from some rows of logits at a time
activations  how many bytes a forward keeps for its backward

Layers live in `seft_ref.layers`, files in `seft_ref.files`. Start reading in `decoder`.
"""
