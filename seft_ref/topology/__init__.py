"""Where the stored entries of a matrix are (chapter 2 of SPEC.md).

csr      row pointers and columns, and flat positions
nm       positions under an N:M pattern, as one bit mask a group
groups   chooses between csr and nm
change   a change of topology as a value, by which arrays move from old slots to new ones

Values live elsewhere. Start reading in `csr`.
"""
