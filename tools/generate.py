"""`seft generate` from a checkout: python tools/generate.py --help"""

from _checkout import seft

seft("generate")
