"""Mutual TLS: who this process is, whom it believes, and the channels and ports that this gives.

An *identity* is a certificate with its private key: one PEM file that holds both (as `tenor certs` makes it), or a
folder with `tls.crt` and `tls.key` (as Kubernetes mounts a secret of that type). An *authority* is a PEM file with the
certificates that sign those of the other side. Laws: without an identity nothing is sent or served beyond loopback; a
server takes nobody whom its authority did not sign; a private key that others can read is refused. Files are read again
for each new connection, so a renewed certificate needs no restart.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from scheduler.clock import wall_clock_ms
from scheduler.core.errors import InvalidValue, TenorError, Unauthorised, Unavailable
from scheduler.exchange.addresses import host_of, is_loopback
from scheduler.exchange.channels import Options
from scheduler.exchange.errors import Untrusted
from scheduler.exchange.peers import Peer
from scheduler.exchange.versions import AIO, saying

CERTIFICATE_FILE, KEY_FILE = "tls.crt", "tls.key"
IDENTITY_VARIABLE, AUTHORITY_VARIABLE = "TENOR_IDENTITY", "TENOR_AUTHORITY"
EXCHANGE_AUTHORITY_VARIABLE = "TENOR_EXCHANGE_AUTHORITY"
RENEW_BEFORE_MS = 7 * 86_400_000
_STRANGERS = 0o007  # a group may read it: that is how Kubernetes gives a secret to one user
_KEY_MARK = b"PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class Loaded:
    """An identity and an authority as their files have them. PEM; `key` is a secret."""

    chain: bytes
    authority: bytes
    peer: Peer | None
    issuer: str
    not_before_ms: int
    not_after_ms: int
    key: bytes = field(repr=False)

    def refuse_stale(self, which: Path, now_ms: int) -> None:
        """Raises Untrusted outside the time for which the certificate is valid."""
        if now_ms >= self.not_after_ms:
            was = f"the certificate in {which} expired at {said_instant(self.not_after_ms)}"
            raise Untrusted(f"{was}: renew it (`tenor certs renew {which}`, or whoever issued it)")
        if now_ms < self.not_before_ms:
            was = f"the certificate in {which} is valid from {said_instant(self.not_before_ms)} on"
            raise Untrusted(f"{was}, and it is {said_instant(now_ms)} now: is this machine's clock right?")


@dataclass(frozen=True, slots=True)
class Tls:
    """Who this process is (`identity`), and who signs the certificates of those at the other end (`authority`)."""

    identity: Path
    authority: Path

    def load(self) -> Loaded:
        """What the files hold. Raises InvalidValue for what is missing, malformed or does not belong together,
        Unauthorised for a key that others may read, or that this user may not, Unavailable as the file system says.
        """
        pem, key = _identity_pem(self.identity)
        certificates = _certificates(pem, self.identity)
        own = certificates[0]
        if _public(key, self.identity) != own.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        ):
            raise InvalidValue("private key", str(self.identity), "another's", "the first certificate's in that file")
        authority = _read(self.authority, "the authority")
        _certificates(authority, self.authority)
        return Loaded(
            chain=b"".join(each.public_bytes(Encoding.PEM) for each in certificates),
            authority=authority,
            peer=certified_peer(own),
            issuer=own.issuer.rfc4514_string(),
            not_before_ms=_ms(own.not_valid_before_utc),
            not_after_ms=_ms(own.not_valid_after_utc),
            key=key,
        )

    def valid(self) -> Loaded:
        """The same, refused outside its time too. Raises Untrusted for that."""
        loaded = self.load()
        loaded.refuse_stale(self.identity, wall_clock_ms())
        return loaded

    def check(self) -> None:
        """For those that dial again and again: raises Untrusted for all that `valid` raises, since a person may mend
        the files while they do.
        """
        try:
            self.valid()
        except Untrusted:
            raise
        except TenorError as error:
            raise Untrusted(str(error)) from error

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For calls from here. Raises as `valid`."""
        loaded = self.valid()
        return grpc.ssl_channel_credentials(loaded.authority, loaded.key, loaded.chain)

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a port here, which takes nobody without a certificate. Raises as `valid`."""
        return _Renewed(self, self.valid()).credentials()


class _Renewed:
    """Gives each new connection the files as they are then; what cannot be used is left, and what was goes on."""

    def __init__(self, tls: Tls, loaded: Loaded) -> None:
        self._tls = tls
        self._guard = threading.Lock()
        self._used = loaded

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._used), self._renewed, require_client_authentication=True
        )

    def _renewed(self) -> Any:
        """Called by gRPC before each handshake; None: as before."""
        with self._guard:
            try:
                loaded = self._tls.valid()
            except TenorError:  # half-written, or gone for the moment: a caller learns of one that expired by itself
                return None
            if loaded == self._used:
                return None
            self._used = loaded
            return _configuration(loaded)


def opened(address: str, tls: Tls | None, options: Options, of: str = "the exchange") -> grpc.Channel:
    """A channel to `address`, with TLS where there is an identity. Raises Unauthorised, and what `Tls.valid` raises."""
    if tls is None:
        refuse_plaintext(address, f"{of} would be called at")
        return saying(grpc.insecure_channel(address, options=options))
    return saying(grpc.secure_channel(address, tls.channel_credentials(), options=options))


def opened_aio(address: str, tls: Tls | None, options: Options, of: str = "the exchange") -> grpc.aio.Channel:
    """The same for asyncio."""
    if tls is None:
        refuse_plaintext(address, f"{of} would be called at")
        return grpc.aio.insecure_channel(address, options=options, interceptors=AIO)
    return grpc.aio.secure_channel(address, tls.channel_credentials(), options=options, interceptors=AIO)


def bind(server: grpc.Server, address: str, tls: Tls | None, of: str = "the exchange") -> int:
    """The port that the server listens on. Raises Unauthorised for plaintext off loopback, Unavailable where the port
    is taken, and what `Tls.valid` raises.
    """
    if tls is None:
        refuse_plaintext(address, f"{of} was to listen on")
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, tls.server_credentials())
    except RuntimeError as error:
        raise Unavailable(f"{of} cannot listen on {address}: the port is taken, or not ours") from error


def refuse_plaintext(address: str, what: str) -> None:
    """Raises Unauthorised for an address that is not this machine's."""
    if not is_loopback(host_of(address)):
        raise Unauthorised(
            f"{what} {address} in plaintext, which is for a loopback address only: "
            "give a certificate and an authority (identity, authority; `tenor certs` makes some)"
        )


def tls_of(identity: Path | None, authority: Path | None) -> Tls | None:
    """TLS where both are given, plaintext where neither is. Raises InvalidValue for half of it."""
    if identity is None and authority is None:
        return None
    if identity is None or authority is None:
        missing = "identity" if identity is None else "authority"
        raise InvalidValue(missing, "TLS", None, "a file: who we are (identity) and whom we believe (authority)")
    return Tls(identity, authority)


def tls_from_environment(authority_variable: str = AUTHORITY_VARIABLE) -> Tls | None:
    """TLS as TENOR_IDENTITY and TENOR_AUTHORITY say; `authority_variable` goes before the latter where it is set.

    Raises InvalidValue where one of the two is missing.
    """
    identity = os.environ.get(IDENTITY_VARIABLE, "")
    authority = os.environ.get(authority_variable, "") or os.environ.get(AUTHORITY_VARIABLE, "")
    return tls_of(Path(identity) if identity else None, Path(authority) if authority else None)


def certified_peer(certificate: x509.Certificate) -> Peer | None:
    """Who a certificate says its owner is; None where it says so in no form that is known here."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return Peer.of_uri(uri)
    except (x509.ExtensionNotFound, ValueError, InvalidValue):
        return None


def stale(tls: Tls | None, now_ms: int) -> list[str]:
    """A sentence where the certificate must be looked at, for whoever watches; none where all is well."""
    if tls is None:
        return []
    try:
        loaded = tls.load()
        loaded.refuse_stale(tls.identity, now_ms)
    except TenorError as error:
        return [str(error)]
    if now_ms < loaded.not_after_ms - RENEW_BEFORE_MS:
        return []
    return [f"the certificate in {tls.identity} expires at {said_instant(loaded.not_after_ms)}: renew it"]


def said_instant(at_ms: int) -> str:
    """An instant as people read it."""
    return f"{datetime.fromtimestamp(at_ms // 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, its owner's first. Raises as `Tls.load`."""
    return _certificates(_read(path, "the certificate"), path)


def _identity_pem(path: Path) -> tuple[bytes, bytes]:
    """(PEM with the certificates, PEM with the key)."""
    if path.is_dir():
        _refuse_open(path / KEY_FILE)
        return _read(path / CERTIFICATE_FILE, "the certificate"), _read(path / KEY_FILE, "the private key")
    pem = _read(path, "the identity")
    if _KEY_MARK not in pem:
        expected = (
            f"a PEM file with a certificate and its private key, or a folder with {CERTIFICATE_FILE} and {KEY_FILE}"
        )
        raise InvalidValue("private key", str(path), "missing", expected)
    _refuse_open(path)
    return pem, pem


def _refuse_open(path: Path) -> None:
    """Raises Unauthorised where anybody may read the key."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # reading it says more
    if mode & _STRANGERS:
        raise Unauthorised(f"the private key in {path} may be read by others (mode {mode & 0o777:04o}, expected 0600)")


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidValue("path", what, str(path), "a PEM file that exists") from error
    except PermissionError as error:
        raise Unauthorised(f"{what} {path} may not be read by this user") from error
    except OSError as error:
        raise Unavailable(f"{what} {path} could not be read: {error.strerror}") from error


def _certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InvalidValue("certificate", str(path), "missing or malformed", "certificates in PEM") from error


def _public(key: bytes, path: Path) -> bytes:
    try:
        loaded = load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise InvalidValue(
            "private key", str(path), "malformed or encrypted", "a PEM key without a password"
        ) from error
    return loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _configuration(loaded: Loaded) -> Any:
    return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.chain)], loaded.authority)


def _ms(at: datetime) -> int:
    return int(at.timestamp()) * 1_000
