"""One command a file; `seft_cli.app` has their table."""
