"""Ed25519 keys in the C2SP signed-note forms (https://c2sp.org/signed-note), as Go's `sumdb/note` has them.

A *signer key* is one line, `PRIVATE+KEY+<name>+<hash>+<base64 of 0x01 and the seed>`, kept in a file that only its
owner can read. A *verifier key* (vkey) is `<name>+<hash>+<base64 of the kind and the public key>` and may be told to
everybody. The hash, the first 4 bytes of `SHA-256(name || 0x0A || kind || public key)`, tells keys of one name apart.

One key pair can do two things, and the kind keeps them apart: *sign* a note (kind 1), as a log does, and *cosign* a
checkpoint at an instant (kind 4, https://c2sp.org/tlog-cosignature), as a witness does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from scheduler.core.errors import Conflict, InvalidValue, Unauthorised, Unavailable

_KEY_BYTES = 32
_TIMESTAMP_BYTES = 8
_PRIVATE = "PRIVATE+KEY+"
_OTHERS = 0o077  # the permissions of everybody but the owner


class Kind(IntEnum):
    """What a key's signatures are over; the first byte of its encoding."""

    NOTE = 1  # the note's text
    COSIGNATURE = 4  # an instant and a checkpoint's text


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key that notes are checked with. `public` is 32 bytes. Raises InvalidValue for what cannot be a key."""

    name: str
    public: bytes
    kind: Kind = Kind.NOTE
    key_hash: bytes = field(init=False)
    _key: Ed25519PublicKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.public) != _KEY_BYTES:
            raise InvalidValue("public key", self.name, len(self.public), f"{_KEY_BYTES} bytes")
        object.__setattr__(self, "key_hash", _key_hash(self.name, self.kind, self.public))
        object.__setattr__(self, "_key", Ed25519PublicKey.from_public_bytes(self.public))

    @classmethod
    def parse(cls, vkey: str) -> VerifierKey:
        """The key that a vkey line names. Raises InvalidValue where it is malformed or its hash is another's."""
        name, stated, encoded = _parts(vkey.strip("\r\n"), "vkey")
        kinds = {int(kind) for kind in Kind}
        if encoded[0] not in kinds:
            raise InvalidValue("kind", f"the vkey of {name}", encoded[0], f"one of {sorted(kinds)}")
        key = cls(name, encoded[1:], Kind(encoded[0]))
        _check_hash(name, stated, key.key_hash)
        return key

    def encode(self) -> str:
        """The vkey line, without an end of line."""
        return f"{self.name}+{self.key_hash.hex()}+{_base64(bytes([self.kind]) + self.public)}"

    def verify(self, text: str, signature: bytes) -> bool:
        """Whether `signature` (without the key hash) is this key's over a note's text."""
        signed = text.encode()
        if self.kind is Kind.COSIGNATURE:
            if len(signature) <= _TIMESTAMP_BYTES:
                return False
            at_s = int.from_bytes(signature[:_TIMESTAMP_BYTES], "big")
            signed, signature = _cosigned(text, at_s), signature[_TIMESTAMP_BYTES:]
        return self.verify_bytes(signed, signature)

    def verify_bytes(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over any bytes (`SignerKey.sign_bytes`)."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A private key that notes are signed with. `seed` is 32 secret bytes and is never shown."""

    name: str
    seed: bytes = field(repr=False)
    verifier: VerifierKey = field(init=False)
    _key: Ed25519PrivateKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.seed) != _KEY_BYTES:
            raise InvalidValue("seed", self.name, f"{len(self.seed)} bytes", f"{_KEY_BYTES} bytes")
        key = Ed25519PrivateKey.from_private_bytes(self.seed)
        object.__setattr__(self, "_key", key)
        object.__setattr__(self, "verifier", VerifierKey(self.name, key.public_key().public_bytes_raw()))

    @classmethod
    def generate(cls, name: str) -> SignerKey:
        """A new key of that name."""
        return cls(name, os.urandom(_KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> SignerKey:
        """The key of a signer key line. Raises InvalidValue, which never quotes the line."""
        line = text.strip("\r\n")
        if not line.startswith(_PRIVATE):
            raise InvalidValue("signer key", "a key file", "something else", f"a line that starts with {_PRIVATE}")
        name, stated, encoded = _parts(line.removeprefix(_PRIVATE), "signer key")
        if encoded[0] != Kind.NOTE:
            raise InvalidValue("kind", f"the signer key of {name}", encoded[0], f"{Kind.NOTE:d}")
        key = cls(name, encoded[1:])
        _check_hash(name, stated, key.verifier.key_hash)
        return key

    @classmethod
    def load(cls, path: Path) -> SignerKey:
        """The key kept at `path`.

        Raises InvalidValue where there is none or it is malformed, Unauthorised where this user may not read the file
        or others may.
        """
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InvalidValue("path", "a signer key", str(path), "a file that exists") from error
        except PermissionError as error:
            raise Unauthorised(f"the signer key {path} may not be read by this user") from error
        except UnicodeDecodeError as error:
            raise InvalidValue("signer key", str(path), "not text", "one line of UTF-8") from error
        except OSError as error:
            raise Unavailable(f"the signer key {path} could not be read: {error.strerror}") from error
        if mode & _OTHERS:
            raise Unauthorised(f"the signer key {path} may be read by others (mode {mode & 0o777:04o}, expected 0600)")
        return cls.parse(text)

    @classmethod
    def load_or_generate(cls, path: Path, name: str) -> SignerKey:
        """The key kept at `path`; where there is none, a new one, kept there. Raises Conflict for another name."""
        if not path.exists():
            key = cls.generate(name)
            key.save(path)
            return key
        key = cls.load(path)
        if key.name != name:
            raise Conflict(f"the signer key {path} is of {key.name!r}, expected {name!r}")
        return key

    @property
    def witness(self) -> VerifierKey:
        """The verifier key of this key's cosignatures."""
        return VerifierKey(self.name, self.verifier.public, Kind.COSIGNATURE)

    @property
    def verifiers(self) -> tuple[VerifierKey, ...]:
        """As a `LogSigner` of one key: the only one."""
        return (self.verifier,)

    def signers(self, acknowledged: int) -> tuple[SignerKey, ...]:  # noqa: ARG002 - a keyring needs it
        """As a `LogSigner` of one key: itself."""
        return (self,)

    def opening(self, acknowledged: int) -> VerifierKey:  # noqa: ARG002 - a keyring needs it
        """As a `LogSigner` of one key: its own."""
        return self.verifier

    def encode(self) -> str:
        """The signer key line: a secret."""
        return f"{_PRIVATE}{self.name}+{self.verifier.key_hash.hex()}+{_base64(bytes([Kind.NOTE]) + self.seed)}"

    def save(self, path: Path) -> None:
        """Keeps the key at `path`, readable by its owner only, whole or not at all. Raises Conflict where something is
        there already.
        """
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.unlink(missing_ok=True)
            file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(file, "w", encoding="utf-8") as opened:
                    opened.write(self.encode() + "\n")
                    opened.flush()
                    os.fsync(opened.fileno())
                os.link(partial, path)  # which replaces nothing, as a rename would
            finally:
                partial.unlink(missing_ok=True)
        except FileExistsError as error:
            raise Conflict(f"{path} exists already; a signer key is never overwritten") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InvalidValue("folder", f"the signer key {path}", "missing", "a folder that exists") from error
        except PermissionError as error:
            raise Unauthorised(f"the signer key {path} may not be written by this user") from error
        except OSError as error:
            raise Unavailable(f"the signer key {path} could not be written: {error.strerror}") from error

    def sign(self, text: str) -> bytes:
        """The 64-byte signature over a note's text."""
        return self._key.sign(text.encode())

    def sign_bytes(self, message: bytes) -> bytes:
        """The 64-byte signature over any bytes: batches on the wire, which are no notes."""
        return self._key.sign(message)

    def cosign(self, text: str, at_s: int) -> bytes:
        """The 72-byte cosignature over a checkpoint's text at an instant in whole seconds UTC."""
        return at_s.to_bytes(_TIMESTAMP_BYTES, "big") + self._key.sign(_cosigned(text, at_s))


def _cosigned(text: str, at_s: int) -> bytes:
    """What a cosignature is over (https://c2sp.org/tlog-cosignature)."""
    return f"cosignature/v1\ntime {at_s}\n{text}".encode()


def _parts(line: str, what: str) -> tuple[str, str, bytes]:
    """Name, hash and decoded key of `<name>+<hash>+<base64>`."""
    name, _, rest = line.partition("+")
    stated, _, encoded = rest.partition("+")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise InvalidValue(what, repr(name), "malformed", "<name>+<8 hex digits>+<base64>")
    return name, stated, key


def _check_hash(name: str, stated: str, computed: bytes) -> None:
    if stated.lower() != computed.hex():
        raise InvalidValue("key hash", f"the key of {name}", stated, computed.hex())


def _check_name(name: str) -> None:
    if not name or "+" in name or any(letter.isspace() or letter < " " for letter in name):
        raise InvalidValue("name", "a key", name, "a name without spaces and without +")


def _key_hash(name: str, kind: Kind, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
