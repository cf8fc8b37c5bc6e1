"""`seft eval` from a checkout: python tools/eval.py --help"""

from _checkout import seft

seft("eval")
