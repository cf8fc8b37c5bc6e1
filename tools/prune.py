"""`seft prune` from a checkout: python tools/prune.py --help"""

from _checkout import seft

if __name__ == "__main__":
    seft("prune")
