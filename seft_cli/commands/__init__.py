"""One command a file; `seft_cli.app` has their table.

What a command calls is in `seft_ref/runs`, `formats` and `conformance/command`. Start with `eval.py`.
"""
