"""Tools: what they are, and running them so that none can harm another."""
