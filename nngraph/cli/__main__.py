"""``python -m nngraph.cli``: the same as the command ``nngraph``."""

import sys

from nngraph.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
