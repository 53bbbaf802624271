"""`python -m peregrine.llm_gateway`: the gateway as a process."""

import sys

from peregrine.llm_gateway.main import run

if __name__ == "__main__":
    sys.exit(run())
