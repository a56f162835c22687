"""Why a connection was not made, in words: gRPC says `Socket closed` for half of the reasons, and this asks again.

Only after a call failed, and only to say why: one more connection to the same address, with the same files, through
Python's own TLS, whose errors are precise. What it finds changes nothing but the message and the class of the error.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import grpc

from scheduler.core.errors import TenorError
from scheduler.exchange.addresses import host_of
from scheduler.exchange.errors import Untrusted, error_of, never_arrived
from scheduler.exchange.tls import CERTIFICATE_FILE, KEY_FILE, Loaded, Tls, said_instant

_WAIT_S = 2.0
_EXPIRED, _NOT_YET, _MISMATCHES = 10, 9, frozenset({62, 64})  # X509_V_ERR_... of OpenSSL's x509_vfy.h
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def failure(failed: grpc.RpcError, address: str, tls: Tls | None, of: str = "the exchange") -> TenorError:
    """The error that a server raised (`errors.error_of`); where no server was reached, with the reason."""
    error = error_of(failed, of)
    return explained(error, address, tls, of) if never_arrived(failed) else error


def explained(error: TenorError, address: str, tls: Tls | None, of: str = "the exchange") -> TenorError:
    """The error with the reason that a handshake gives, of the class Untrusted; itself where there is none."""
    try:
        why = _plain(address) if tls is None else _secured(address, tls)
    except TenorError as found:  # our own files are no good any more
        return found if isinstance(found, Untrusted) else Untrusted(str(found))
    except OSError:
        return error  # nobody is there, or it went away: what was said before is all there is
    return Untrusted(f"{of} at {address} {why}") if why else error


def _plain(address: str) -> str:
    """What a plaintext caller met: another than a plaintext server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _connected(address) as raw, context.wrap_socket(raw):
            pass
    except ssl.SSLError:
        return ""
    return "speaks TLS, and was called in plaintext: say who you are (TENOR_IDENTITY, TENOR_AUTHORITY)"


def _secured(address: str, tls: Tls) -> str:
    loaded = tls.valid()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=loaded.authority.decode())
    context.set_alpn_protocols(["h2"])
    _present(context, tls)
    try:
        with _connected(address) as raw, context.wrap_socket(raw, server_hostname=host_of(address)) as secured:
            secured.sendall(_HTTP2_HELLO)
            answer = secured.recv(1)
    except ssl.SSLCertVerificationError as error:
        return _of_certificate(error, address, tls.authority)
    except ssl.SSLError as error:
        if error.reason == "WRONG_VERSION_NUMBER":
            return "speaks plaintext, and was called with TLS: nothing was sent to it"
        return _unwelcome(loaded, tls)
    except ConnectionResetError:
        return _unwelcome(loaded, tls)
    return "" if answer else _unwelcome(loaded, tls)


def _of_certificate(error: ssl.SSLCertVerificationError, address: str, authority: Path) -> str:
    """What is wrong with the certificate of whoever answers."""
    if error.verify_code == _EXPIRED:
        return "has a certificate that expired: its operator must renew it"
    if error.verify_code == _NOT_YET:
        return "has a certificate that is not valid yet: is this machine's clock right?"
    if error.verify_code in _MISMATCHES:
        return f"has a certificate for another name: {host_of(address)!r} is not among those that it was issued for"
    return f"has a certificate of another authority than those in {authority} ({error.verify_message})"


def _unwelcome(loaded: Loaded, tls: Tls) -> str:
    """The other end let the handshake go by and left: it did not take our certificate, and TLS lets it not say why."""
    who = loaded.peer or "nobody that is known here"
    until = said_instant(loaded.not_after_ms)
    return (
        f"did not take our certificate ({tls.identity}: {who}, signed by {loaded.issuer}, valid until {until}): "
        "is its authority the one that signed it?"
    )


def _connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    connected = socket.create_connection((host.strip("[]"), int(port)), _WAIT_S)
    if leads_back(connected):
        connected.close()
        raise ConnectionRefusedError(f"nobody listens at {address}")
    connected.settimeout(_WAIT_S)
    return connected


def leads_back(connected: socket.socket) -> bool:
    """Whether a connection to a port of this machine where nobody listens was given that very port, and so met itself:
    Linux allows it, and whoever wants to listen there finds the port taken while it lasts.
    """
    return bool(connected.getsockname() == connected.getpeername())


def _present(context: ssl.SSLContext, tls: Tls) -> None:
    """Python takes a certificate from its files only."""
    if tls.identity.is_dir():
        context.load_cert_chain(tls.identity / CERTIFICATE_FILE, tls.identity / KEY_FILE)
    else:
        context.load_cert_chain(tls.identity)
