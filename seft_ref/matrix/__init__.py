"""What a run knows of one matrix: its frozen base, its delta, and the gradient of a window of steps (chapter 6).

bases     a base as it is held: plain, packed or compact
target    base, delta and budgets of a trained matrix
window    the gradient of several steps, in its factors
evidence  what an event asks of that gradient, rows at a time

Rules that choose live in `seft_ref.update`. Start reading in `window`.
"""
