"""`python -m rust_diffusion`: the command line."""

import sys

from rust_diffusion.cli import main

if __name__ == "__main__":
    sys.exit(main())
