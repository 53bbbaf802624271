"""The cache service: what several processes know already, in Redis and, behind it, PostgreSQL."""
