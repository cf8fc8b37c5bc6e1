"""`seft plot` from a checkout: python tools/plot.py --help"""

from _checkout import seft

if __name__ == "__main__":
    seft("plot")
