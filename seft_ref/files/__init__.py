"""The only door to files: `model` reads and writes checkpoints, `state` stops and resumes a run (chapter 13).

Bytes are the business of `formats`. Start reading in `model`.
"""
