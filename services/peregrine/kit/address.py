"""Which addresses stay on this machine: Unix sockets, literal loopback addresses and `localhost`.

Nothing is resolved. A name is not believed to mean this machine because it does so at the moment,
or because it begins with 127.
"""

import ipaddress

_SCHEMES = ("dns:///", "dns:", "ipv4:", "ipv6:")


def stays_here(address: str) -> bool:
    """Whether host:port (or a gRPC target) is on this machine and nowhere else."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    for scheme in _SCHEMES:
        address = address.removeprefix(scheme)
    host = host_of(address)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host of host:port, in lower case, without brackets."""
    if address.startswith("["):
        return address[1:].partition("]")[0].lower()
    host, colon, port = address.rpartition(":")
    return (host if colon and port.isdigit() else address).lower()
