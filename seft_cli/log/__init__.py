"""A run's log (TRN-010): `write` appends to it, `read` makes records of it, `figures` and `page` draw them."""
