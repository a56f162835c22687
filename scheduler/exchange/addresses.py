"""What an address says of who can reach it: loopback is this machine, everything else may be anybody's."""

from __future__ import annotations

import ipaddress


def host_of(address: str) -> str:
    """The host of `HOST:PORT`, without the brackets of IPv6."""
    return address.rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
