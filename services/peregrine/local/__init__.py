"""Peregrine on one machine: embedded stores, every service its own process, one terminal."""
