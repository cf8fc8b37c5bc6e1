"""Text and tokens: reading, batches, perplexity, generation (TRN-016, chapters 11 and 17).

tokens     text to tokens and back; which windows of a text are used
batch      rows of tokens and their labels
evaluate   perplexity; generate and sampling, the next tokens

Start reading in `tokens`.
"""
