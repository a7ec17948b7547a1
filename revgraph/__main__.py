"""`python -m revgraph` is the command `revgraph`."""

import sys

from revgraph.cli import main

if __name__ == "__main__":
    sys.exit(main())
