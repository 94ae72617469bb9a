"""`python -m outgrow`: the command line, for `torchrun -m outgrow` too."""

import sys

from outgrow.cli import main

if __name__ == "__main__":
    sys.exit(main())
