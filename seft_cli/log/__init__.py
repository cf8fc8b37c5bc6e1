"""The log of a run (TRN-010): `write` appends to it, `read` parses it, `figures` and `page` draw it.

`seft_ref/train` decides what a record of a step holds. Start with `write.py`.
"""
