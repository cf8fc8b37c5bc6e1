"""`seft demo` from a checkout: python tools/demo.py --help"""

from _checkout import seft

seft("demo")
