"""The tools that come with Peregrine."""
