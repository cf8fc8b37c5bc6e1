"""The state of one trained matrix: its frozen base, its delta, and the gradient of a window of steps (chapter 6).

bases     a base as it is stored: as CSR, in the packed matrix, or there in 16 bits
target    base, delta and budgets of a trained matrix
window    the gradient of several steps, kept as factors
evidence  what an event asks of that gradient, one block of rows at a time

The rules that choose positions live in `seft_ref.update`. Start reading in `window`.
"""
