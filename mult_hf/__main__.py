"""`python -m mult_hf` runs the command `mult-hf`, for launchers that take a module: `accelerate launch -m mult_hf train ...`."""

import sys

from mult_hf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
