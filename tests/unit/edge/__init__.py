"""Parts of the edge, alone."""
