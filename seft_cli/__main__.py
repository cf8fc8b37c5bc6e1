"""python -m seft_cli is the command `seft`."""

from seft_cli.app import main

if __name__ == "__main__":
    main()
