"""Where the stored entries of a matrix are (chapter 2 of SPEC.md).

csr      row pointers and columns, and flat positions
nm       the same for N:M patterns, group by group; groups chooses between the two
change   a change of topology, a value that moves everything aligned with it

Values live elsewhere. Start reading in `csr`.
"""
