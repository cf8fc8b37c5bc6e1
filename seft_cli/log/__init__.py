"""A run's log (TRN-010): `write` appends to it, `read` makes records of it, `figures` and `page` draw them.

What is noted of a step is decided in `seft_ref/train`. Start with `write.py`.
"""
