"""`seft show` from a checkout: python tools/show.py --help"""

from _checkout import seft

seft("show")
