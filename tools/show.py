"""`seft show` from a checkout: python tools/show.py --help"""

from _checkout import seft

if __name__ == "__main__":
    seft("show")
