"""Signed notes and the checkpoints of logs, in the C2SP forms, so that tools that are not ours verify them.

A note (https://c2sp.org/signed-note) is text that ends with a line feed, an empty line, and one line for each
signature: `— <name> <base64 of the key hash and the signature>`. A checkpoint (https://c2sp.org/tlog-checkpoint) is a
note whose text is the log's origin, its size in decimal, its root in base64, and any extension lines. A witness that
has checked a checkpoint adds its cosignature.

Law: `open_note` believes a note only where a key that the caller trusts has signed it; a signature of a trusted key
that is wrong spoils the note; signatures of other keys are kept and believed by nobody. So does Go's `note.Open`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scheduler.core.errors import Conflict, InvalidValue, Unauthorised
from scheduler.core.merkle import HASH_BYTES
from scheduler.ledger.keys import Kind, SignerKey, VerifierKey

_DASH = "— "
_MOST_SIGNATURES = 100
_HASH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Signature:
    """One line of a note: whose, by which key, and the signature itself."""

    name: str
    key_hash: bytes
    signature: bytes

    def line(self) -> str:
        """As it stands in the note, with its line feed."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_hash + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note as it was read: nothing is believed yet."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The note's bytes."""
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()


@dataclass(frozen=True, slots=True)
class OpenedNote:
    """A note that at least one trusted key has signed; `verified` and `unverified` in the order of the note."""

    text: str
    verified: tuple[Signature, ...]
    unverified: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log commits to: under the name `origin`, its first `size` leaves have this root (32 bytes)."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lines = (self.origin, *self.extensions)
        if any(not line or any(letter < " " for letter in line) for line in lines):
            raise InvalidValue("lines", "a checkpoint", lines, "lines that are not empty, without control characters")
        if self.size < 0:
            raise InvalidValue("size", f"the checkpoint of {self.origin}", self.size, "an integer of 0 or more")
        if len(self.root) != HASH_BYTES:
            raise InvalidValue("root", f"the checkpoint of {self.origin}", self.root, f"{HASH_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint of a note's text. Raises InvalidValue."""
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop():
            raise InvalidValue("text", "a checkpoint", text[:80], "origin, size and root, a line each")
        origin, size, root, *extensions = lines
        if not (size.isascii() and size.isdecimal() and (size == "0" or size[0] != "0") and len(size) <= 20):
            raise InvalidValue("size", f"the checkpoint of {origin}", size[:80], "a decimal integer")
        decoded = _decoded(root)
        if decoded is None:
            raise InvalidValue("root", f"the checkpoint of {origin}", root[:80], "base64")
        return cls(origin, int(size), decoded, tuple(extensions))

    def text(self) -> str:
        """The text of the note."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def sign_note(text: str, *signers: SignerKey) -> bytes:
    """A note over `text`, signed by each. Raises InvalidValue where the text cannot be a note's."""
    _check_text(text.encode())
    if not text.endswith("\n"):
        raise InvalidValue("text", "a note", text[-20:], "text that ends with a line feed")
    made = (Signature(key.name, key.verifier.key_hash, key.sign(text)) for key in signers)
    return Note(text, tuple(made)).encode()


def parse_note(message: bytes) -> Note:
    """The note in `message`, believed by nobody yet. Raises InvalidValue where it is malformed."""
    _check_text(message)
    text, blank, block = message.decode().rpartition("\n\n")
    lines = block.split("\n")
    if not blank or lines.pop() or not 0 < len(lines) <= _MOST_SIGNATURES:
        raise _malformed(f"text, an empty line, and 1 to {_MOST_SIGNATURES} signature lines")
    return Note(text + "\n", tuple(_parsed_signature(line) for line in lines))


def open_note(message: bytes, trusted: Sequence[VerifierKey]) -> OpenedNote:
    """The note in `message`, once a trusted key's signature over it is verified.

    Raises InvalidValue where it is malformed, Unauthorised where no trusted key signed or one's signature is wrong,
    Conflict where two different trusted keys have one name and hash.
    """
    keys = _by_name_and_hash(trusted)
    note = parse_note(message)
    verified: dict[tuple[str, bytes], Signature] = {}
    unverified: dict[Signature, None] = {}  # a set that keeps the order
    for signature in note.signatures:
        place = (signature.name, signature.key_hash)
        key = keys.get(place)
        if key is None:
            unverified[signature] = None
        elif place not in verified:
            if not key.verify(note.text, signature.signature):
                raise Unauthorised(f"the signature of {signature.name}+{signature.key_hash.hex()} is not its key's")
            verified[place] = signature
    if not verified:
        names = ", ".join(sorted({signature.name for signature in note.signatures}))
        wanted = ", ".join(sorted(f"{key.name}+{key.key_hash.hex()}" for key in trusted)) or "nobody"
        raise Unauthorised(f"the note is signed by {names}, expected a signature of {wanted}")
    return OpenedNote(note.text, tuple(verified.values()), tuple(unverified))


def sign_checkpoint(checkpoint: Checkpoint, *signers: SignerKey) -> bytes:
    """The checkpoint as a note, signed by each."""
    return sign_note(checkpoint.text(), *signers)


def open_checkpoint(message: bytes, trusted: Sequence[VerifierKey], *, origin: str | None = None) -> Checkpoint:
    """The checkpoint in `message`, once verified (see `open_note`). Raises Conflict where it is another log's."""
    checkpoint = Checkpoint.parse(open_note(message, trusted).text)
    if origin is not None and checkpoint.origin != origin:
        raise Conflict(f"the checkpoint is of the log {checkpoint.origin!r}, expected {origin!r}")
    return checkpoint


def cosign(message: bytes, witness: SignerKey, at_s: int) -> bytes:
    """The note with the witness's cosignature at `at_s` (seconds UTC) added; one of its that was there is replaced.

    The witness must have checked the log's signature and consistency before. Raises InvalidValue for what is no
    checkpoint.
    """
    note = parse_note(message)
    Checkpoint.parse(note.text)
    key_hash = witness.witness.key_hash
    others = [it for it in note.signatures if (it.name, it.key_hash) != (witness.name, key_hash)]
    made = Signature(witness.name, key_hash, witness.cosign(note.text, at_s))
    return Note(note.text, (*others, made)).encode()


def with_cosignature(message: bytes, offered: bytes, witness: VerifierKey) -> bytes:
    """The note `message` with the cosignature that `offered`, a copy of the same checkpoint, has of the witness; one of
    its that was there is replaced.

    Raises InvalidValue for what is no checkpoint or no witness's key, Conflict where the two are not the same, or where
    there is no room for more, Unauthorised where the witness did not sign or its signature is wrong.
    """
    if witness.kind is not Kind.COSIGNATURE:
        raise InvalidValue("kind", f"the vkey of {witness.name}", witness.kind, f"{Kind.COSIGNATURE:d}, a witness's")
    held, given = parse_note(message), open_note(offered, [witness])
    if held.text != given.text:
        ours, theirs = Checkpoint.parse(held.text), Checkpoint.parse(given.text)
        was = f"of {theirs.size} leaves of {theirs.origin} with root {theirs.root.hex()}"
        expected = f"of {ours.size} leaves of {ours.origin} with root {ours.root.hex()}"
        raise Conflict(f"the cosigned checkpoint was {was}, expected {expected}")
    others = [it for it in held.signatures if (it.name, it.key_hash) != (witness.name, witness.key_hash)]
    if len(others) >= _MOST_SIGNATURES:
        raise Conflict(f"the checkpoint has {len(others)} signatures, expected fewer than {_MOST_SIGNATURES}")
    return Note(held.text, (*others, given.verified[0])).encode()


def cosigned_at_s(note: OpenedNote, witness: VerifierKey) -> int | None:
    """When the witness cosigned, in seconds UTC; None where it did not, or not verified."""
    for signature in note.verified:
        if witness.kind is Kind.COSIGNATURE and (signature.name, signature.key_hash) == (
            witness.name,
            witness.key_hash,
        ):
            return int.from_bytes(signature.signature[:8], "big")
    return None


def _by_name_and_hash(trusted: Iterable[VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    keys: dict[tuple[str, bytes], VerifierKey] = {}
    for key in trusted:
        if keys.setdefault((key.name, key.key_hash), key) != key:
            raise Conflict(f"two different keys are both {key.name}+{key.key_hash.hex()}")
    return keys


def _parsed_signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    decoded = _decoded(encoded)
    bad_name = not name or "+" in name or any(letter.isspace() for letter in name)
    if not line.startswith(_DASH) or bad_name or decoded is None or len(decoded) <= _HASH_BYTES:
        raise _malformed("signature lines of '— <name> <base64>'")
    return Signature(name, decoded[:_HASH_BYTES], decoded[_HASH_BYTES:])


def _check_text(message: bytes) -> None:
    """UTF-8 without control characters other than the line feed."""
    try:
        message.decode()
    except UnicodeDecodeError:
        raise _malformed("UTF-8") from None
    if any(byte < 0x20 and byte != 0x0A for byte in message):
        raise _malformed("no control characters but the line feed")


def _decoded(encoded: str) -> bytes | None:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None


def _malformed(expected: str) -> InvalidValue:
    return InvalidValue("form", "a note", "malformed", expected)
