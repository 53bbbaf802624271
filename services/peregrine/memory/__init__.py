"""Conversations and user profiles, kept in PostgreSQL, each seen by its own user only."""
