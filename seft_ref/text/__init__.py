"""Text and tokens: reading, batches, perplexity, generation (TRN-016, chapters 11, 17 and 18).

tokens     text to tokens and back, and which windows of a text are used
batch      rows of tokens and their labels
chat       messages to text, by the template of a model
examples   prompts with answers: reading, packing, batches
evaluate   perplexity
generate   tokens that follow a prompt
sampling   picks the next token from logits
score      log-likelihood of continuations, and answers that end at a word

Start reading in `tokens`.
"""
