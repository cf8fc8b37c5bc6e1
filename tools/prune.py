"""`seft prune` from a checkout: python tools/prune.py --help"""

from _checkout import seft

seft("prune")
