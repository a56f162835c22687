"""Who is at the other end of a call: a role and a name, as the caller's certificate says, and nothing else does.

The identity is the certificate's one URI name in SPIFFE form, `spiffe://TRUST-DOMAIN/ROLE/NAME`, so that any issuer of
such certificates will do (`tenor certs`, cert-manager, SPIRE). The trust domain grants nothing: a server believes the
authority that it was given, and only that authority's certificates get through the handshake. Without TLS the caller is
a process of this machine, `local`, which may do everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

import grpc

from scheduler.core.errors import InvalidValue, Unauthorised
from scheduler.core.ids import checked_name

_SPIFFE_ID = "peer_spiffe_id"
_TRANSPORT = "transport_security_type"
FORM = "spiffe://TRUST-DOMAIN/ROLE/NAME with the role admin, cluster, exchange, auditor or account"


class Role(StrEnum):
    """What a peer is; what it may do is said by each server's rules."""

    LOCAL = "local"
    ADMIN = "admin"
    CLUSTER = "cluster"
    EXCHANGE = "exchange"
    AUDITOR = "auditor"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class Peer:
    """A caller. `name`: of the account, the stream (for a cluster), the venue or the person; empty for a local one."""

    role: Role
    name: str

    def __str__(self) -> str:
        return f"{self.role}/{self.name}" if self.name else str(self.role)

    @classmethod
    def parse(cls, text: str) -> Peer:
        """The peer of `ROLE/NAME`. Raises InvalidValue for a role that no certificate has, or what is no name."""
        role, slash, name = text.partition("/")
        if not slash or role not in _CERTIFIED:
            raise InvalidValue("peer", "a certificate", text, "ROLE/NAME, with one of " + ", ".join(sorted(_CERTIFIED)))
        return cls(Role(role), checked_name(f"name of the {role}", name))

    @classmethod
    def of_uri(cls, uri: str) -> Peer:
        """The peer that a certificate's URI names. Raises InvalidValue for any other form."""
        parts = urlsplit(uri)
        role, _, name = parts.path.removeprefix("/").partition("/")
        if parts.scheme != "spiffe" or not parts.netloc or role not in _CERTIFIED or parts.query or parts.fragment:
            raise InvalidValue("identity", "a certificate", uri[:200], FORM)
        return cls(Role(role), checked_name(f"name of the {role}", name))

    def uri(self, domain: str) -> str:
        """Its URI in a certificate of that trust domain."""
        return f"spiffe://{domain}/{self.role}/{self.name}"


_CERTIFIED = frozenset(str(role) for role in Role if role is not Role.LOCAL)
LOCAL = Peer(Role.LOCAL, "")
"""A process of this machine, over plaintext on loopback."""


def peer_of(context: grpc.ServicerContext) -> Peer:
    """Who calls. Raises Unauthorised for a certificate that says of nobody who it is."""
    facts = context.auth_context()
    transport = [bytes(each) for each in facts.get(_TRANSPORT, ())]
    if transport == [b"insecure"]:
        return LOCAL  # plaintext is served on loopback only (`tls.refuse_plaintext`)
    if transport != [b"ssl"]:
        raise Unauthorised(f"the call came over {transport!r}, expected TLS, or plaintext on loopback")
    named = [bytes(each) for each in facts.get(_SPIFFE_ID, ())]
    if len(named) != 1:
        raise Unauthorised(f"the caller's certificate has no identity, expected one URI name of the form {FORM}")
    try:
        return Peer.of_uri(named[0].decode())
    except (InvalidValue, UnicodeDecodeError) as error:
        raise Unauthorised(f"the caller's certificate has no identity that is known here: {error}") from error
