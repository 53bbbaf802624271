"""`python -m peregrine_operator`: runs the operator until it is told to stop."""

import os
import sys

from peregrine_operator.main import run

if __name__ == "__main__":
    sys.exit(run(os.environ))
