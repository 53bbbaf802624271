"""DSNs of the test databases, turned into those of another role or another way in."""

from urllib.parse import parse_qs, urlsplit, urlunsplit

from peregrine.local.servers import SUPERUSER


def as_superuser(dsn: str) -> str:
    """The same database, entered as the superuser (for whom row-level security is void)."""
    parts = urlsplit(dsn)
    _, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{SUPERUSER}@{place}"))


def through(dsn: str, address: str) -> str:
    """The same database, entered through `address` ("host:port" of a fault proxy)."""
    parts = urlsplit(dsn)
    user, _, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}@{address}", query=""))


def socket_path(dsn: str) -> str:
    """The Unix socket that a test DSN points at: what a fault proxy takes as its target."""
    return f"{parse_qs(urlsplit(dsn).query)['host'][0]}/.s.PGSQL.5432"
