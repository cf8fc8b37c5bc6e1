"""One file per command; `seft_cli.app` has the table of them.

The work itself is done by `seft_ref/runs`, `formats` and `conformance/command`. Start with `eval.py`.
"""
