"""The edge, over real HTTP."""
