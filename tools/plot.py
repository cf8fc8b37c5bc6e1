"""`seft plot` from a checkout: python tools/plot.py --help"""

from _checkout import seft

seft("plot")
