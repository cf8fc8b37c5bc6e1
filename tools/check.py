"""`seft check` from a checkout: python tools/check.py --help"""

from _checkout import seft

seft("check")
