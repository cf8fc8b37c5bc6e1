"""`seft eval` from a checkout: python tools/eval.py --help"""

from _checkout import seft

if __name__ == "__main__":
    seft("eval")
