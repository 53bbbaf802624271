"""Ports for servers that tests start as processes (in-process servers bind port 0 instead)."""

from peregrine.local.places import free_port

__all__ = ["free_port"]
