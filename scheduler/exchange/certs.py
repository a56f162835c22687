"""A development authority, and the certificates that it signs: for trying mutual TLS in a minute, and for tests.

One folder holds it all: `authority.pem` (for everybody), `authority.key` (whoever has it can be anybody), and an
identity for each peer, `ROLE-NAME.pem`, which is its certificate and its private key. Laws: nothing that is there is
ever overwritten but by `renew`, which keeps the key; a file with a private key is readable by its owner only, from its
first byte on; a certificate never outlives its authority. Firms that have an issuer of their own do not need this: any
certificate with the same URI name will do (see `peers`).
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scheduler.core.errors import Conflict, InvalidValue, Unauthorised, Unavailable
from scheduler.exchange.peers import Peer, Role
from scheduler.exchange.tls import certified_peer, read_certificates, said_instant

AUTHORITY, AUTHORITY_KEY = "authority.pem", "authority.key"
DOMAIN = "tenor.local"
DAYS, AUTHORITY_DAYS, MOST_DAYS = 90, 3_650, 36_500
_OWN_HOSTS = ("localhost", "127.0.0.1", "::1")
_SERVERS = frozenset({Role.CLUSTER, Role.EXCHANGE})
_SKEW = timedelta(minutes=5)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_SECRET, _PUBLIC = 0o600, 0o644


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate as people need to know it. `peer` is None for an authority, and for what has no identity."""

    path: Path
    peer: Peer | None
    is_authority: bool
    issuer: str
    hosts: tuple[str, ...]
    not_before_ms: int
    not_after_ms: int


def make(
    folder: Path, peers: Sequence[Peer], *, hosts: Sequence[str] = (), days: int = DAYS, now_ms: int
) -> tuple[Certificate, ...]:
    """An identity for each peer, signed by the folder's authority, made where there is none; all that was made.
    `hosts`: names and addresses under which the clusters and exchanges among them are called, beside this machine.

    Raises Conflict where one of the files is there already, InvalidValue, Unauthorised, Unavailable; then nothing was
    made but, at most, the authority.
    """
    _check_days(days)
    names = [_general_name(host) for host in (*_OWN_HOSTS, *hosts)]
    paths = [folder / f"{peer.role}-{peer.name}.pem" for peer in peers]
    there = [path for path in (*paths, *_half_authority(folder)) if path.exists()]
    if there or len(set(paths)) < len(paths):
        said = ", ".join(map(str, there)) or "one of them twice"
        raise Conflict(
            f"nothing was made, since certificates are never overwritten: {said} (renew, or remove them first)"
        )
    made = []
    if not (folder / AUTHORITY).exists():
        made.append(_make_authority(folder, now_ms))
    signer, authority = _authority(folder, now_ms)
    for peer, path in zip(peers, paths, strict=True):
        key = ec.generate_private_key(ec.SECP256R1())
        uri = x509.UniformResourceIdentifier(peer.uri(DOMAIN))
        alternatives = x509.SubjectAlternativeName([uri, *(names if peer.role in _SERVERS else ())])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(peer)[:64])])
        signed = _signed(subject, alternatives, key.public_key(), signer, authority, days, now_ms)
        _create(path, _pem(signed) + _key_pem(key), _SECRET)
        made.append(described(path))
    return tuple(made)


def renew(path: Path, *, days: int | None = None, now_ms: int) -> Certificate:
    """The certificate at `path` for so many days from now (None: as many as `make` gives), with the same names and the
    same key, in its place; signed by the authority beside it. The authority itself can be renewed too: what it signed
    stays good.

    Raises Conflict where another authority signed it, and as `make`.
    """
    old = read_certificates(path)[0]
    days = days if days is not None else AUTHORITY_DAYS if _is_authority(old) else DAYS
    _check_days(days)
    if _is_authority(old):
        key = _private_key(path.parent / AUTHORITY_KEY)
        if path.name != AUTHORITY or not _same_key(old, key):
            raise Conflict(f"{path} is not the authority whose key is {path.parent / AUTHORITY_KEY}")
        _replace(path, _pem(_self_signed(old.subject, key, days, now_ms)), _PUBLIC)
        return described(path)
    signer, authority = _authority(path.parent, now_ms)
    try:
        old.verify_directly_issued_by(authority)
    except (ValueError, InvalidSignature, TypeError) as error:
        was = f"{path} was signed by {old.issuer.rfc4514_string()}"
        raise Conflict(f"{was}, the authority beside it is {authority.subject.rfc4514_string()}") from error
    key = _private_key(path)
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    signed = _signed(old.subject, names, key.public_key(), signer, authority, days, now_ms)
    _replace(path, _pem(signed) + _key_pem(key), _SECRET)
    return described(path)


def described(path: Path) -> Certificate:
    """What the first certificate at `path` says. Raises InvalidValue where there is none."""
    certificate = read_certificates(path)[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    addresses = names.get_values_for_type(x509.IPAddress)
    return Certificate(
        path=path,
        peer=certified_peer(certificate),
        is_authority=_is_authority(certificate),
        issuer=certificate.issuer.rfc4514_string(),
        hosts=(*names.get_values_for_type(x509.DNSName), *map(str, addresses)),
        not_before_ms=int(certificate.not_valid_before_utc.timestamp()) * 1_000,
        not_after_ms=int(certificate.not_valid_after_utc.timestamp()) * 1_000,
    )


def _make_authority(folder: Path, now_ms: int) -> Certificate:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _reported(folder, error) from error
    key = ec.generate_private_key(ec.SECP256R1())
    named = f"Tenor development authority {secrets.token_hex(4)}"  # two authorities are never taken for one
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, named)])
    _create(folder / AUTHORITY_KEY, _key_pem(key), _SECRET)
    _create(folder / AUTHORITY, _pem(_self_signed(subject, key, AUTHORITY_DAYS, now_ms)), _PUBLIC)
    return described(folder / AUTHORITY)


def _half_authority(folder: Path) -> tuple[Path, ...]:
    """A key without its certificate is somebody's, and not to be replaced."""
    return () if (folder / AUTHORITY).exists() else (folder / AUTHORITY_KEY,)


def _authority(folder: Path, now_ms: int) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    path = folder / AUTHORITY
    certificate, key = read_certificates(path)[0], _private_key(folder / AUTHORITY_KEY)
    if not _same_key(certificate, key):
        raise Conflict(f"{folder / AUTHORITY_KEY} is not the key of {path}")
    if _instant(now_ms) >= certificate.not_valid_after_utc:
        until = said_instant(described(path).not_after_ms)
        raise Conflict(f"the authority {path} expired at {until}: renew it first (`tenor certs renew {path}`)")
    return key, certificate


def _self_signed(subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int, now_ms: int) -> x509.Certificate:
    usage = _usage(signs_certificates=True)
    built = _builder(subject, subject, key.public_key(), _instant(now_ms) + timedelta(days=days), now_ms)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return built.add_extension(usage, critical=True).sign(key, hashes.SHA256())


def _signed(
    subject: x509.Name,
    names: x509.SubjectAlternativeName,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    days: int,
    now_ms: int,
) -> x509.Certificate:
    until = min(_instant(now_ms) + timedelta(days=days), authority.not_valid_after_utc)
    built = _builder(subject, authority.subject, public, until, now_ms)
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    built = built.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    built = built.add_extension(_usage(signs_certificates=False), critical=True).add_extension(both, critical=False)
    built = built.add_extension(names, critical=False)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    return built.add_extension(issuer_key, critical=False).sign(signer, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, until: datetime, now_ms: int
) -> x509.CertificateBuilder:
    built = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    built = built.serial_number(x509.random_serial_number())
    built = built.not_valid_before(_instant(now_ms) - _SKEW).not_valid_after(until)
    return built.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        if not _HOST.fullmatch(host):
            raise InvalidValue("host", "a certificate", host, "a DNS name or an IP address, without a port") from None
        return x509.DNSName(host)


def _check_days(days: int) -> None:
    if not 1 <= days <= MOST_DAYS:
        raise InvalidValue("days", "a certificate", days, f"1..{MOST_DAYS}")


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _same_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    return certificate.public_key() == key.public_key()


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError as error:
        raise InvalidValue("private key", str(path), "missing", "the file that `tenor certs make` made") from error
    except OSError as error:
        raise _reported(path, error) from error
    except (ValueError, TypeError) as error:
        raise InvalidValue(
            "private key", str(path), "malformed or encrypted", "a PEM key without a password"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidValue("private key", str(path), type(key).__name__, "one that `tenor certs make` made")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _create(path: Path, content: bytes, mode: int) -> None:
    """A new file. Raises Conflict where there is one."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(file, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
    except FileExistsError as error:
        raise Conflict(f"{path} exists already; certificates are never overwritten") from error
    except OSError as error:
        raise _reported(path, error) from error


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all."""
    building = path.with_name(f".{path.name}.{os.getpid()}")
    building.unlink(missing_ok=True)
    try:
        _create(building, content, mode)
        building.replace(path)
    except OSError as error:
        raise _reported(path, error) from error
    finally:
        building.unlink(missing_ok=True)


def _reported(path: Path, error: OSError) -> Unauthorised | Unavailable:
    if isinstance(error, PermissionError):
        return Unauthorised(f"{path} may not be read or written by this user")
    return Unavailable(f"{path} could not be read or written: {error.strerror}")


def _instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 1_000, UTC)
