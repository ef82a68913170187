"""`python -m invhyper`: the command line."""

import sys

from invhyper.cli import main

if __name__ == "__main__":
    sys.exit(main())
