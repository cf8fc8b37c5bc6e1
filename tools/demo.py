"""`seft demo` from a checkout: python tools/demo.py --help"""

from _checkout import seft

if __name__ == "__main__":
    seft("demo")
