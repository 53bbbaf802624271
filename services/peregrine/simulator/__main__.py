"""`python -m peregrine.simulator`: the simulator as its own process."""

import os
import sys

from peregrine.simulator.main import run

if __name__ == "__main__":
    sys.exit(run(os.environ))
