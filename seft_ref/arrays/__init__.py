"""Helpers for arrays of any library: dtypes, devices, finiteness, exact counts, random draws, processes.

Nothing here knows of matrices, models or rules. Start reading in `library`.
"""
