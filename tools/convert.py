"""`seft convert`, `diff` and `apply` from a checkout: python tools/convert.py [diff|apply] --help"""

import sys

from _checkout import seft

if __name__ == "__main__":
    seft(sys.argv.pop(1) if sys.argv[1:2] in (["diff"], ["apply"]) else "convert")
