"""`seft check` from a checkout: python tools/check.py --help"""

from _checkout import seft

if __name__ == "__main__":
    seft("check")
