"""The state of one trained matrix: its frozen base, its delta, and the gradient of a window of steps (chapter 6).

bases     where a base is stored: as CSR, or inside the packed matrix, which may hold 16-bit values or codes
target    base, delta and budgets of a trained matrix
of_step   the gradient of one step, kept as factors while they are smaller
window    sums over the gradients of several steps, at every position or at some
evidence  the scores and sums that an event takes from that gradient, one block of rows at a time
strongest the candidates of growth with the largest scores, kept while blocks are looked at

The rules that choose positions live in `seft_ref.update`. Start reading in `window`.
"""
