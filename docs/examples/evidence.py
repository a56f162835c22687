"""What anybody needs to check a delivery log: the C2SP signed note, and the RFC 9162 tree. No code of Tenor's."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True)
class Checkpoint:
    """The first `size` leaves of the log `origin` have this root."""

    origin: str
    size: int
    root: bytes


def leaf_hash(leaf: bytes) -> bytes:
    """RFC 9162, section 2.1.1."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 9162, section 2.1.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(hashes: list[bytes]) -> bytes:
    """The root over leaf hashes. A service keeps the compact range instead of computing it anew each time."""
    if len(hashes) < 2:
        return hashes[0] if hashes else hashlib.sha256(b"").digest()
    split = 1 << ((len(hashes) - 1).bit_length() - 1)
    return node_hash(root_of(hashes[:split]), root_of(hashes[split:]))


def is_included(leaf: bytes, index: int, checkpoint: Checkpoint, proof: list[bytes]) -> bool:
    """Whether `leaf` is at `index` under the checkpoint: RFC 9162, section 2.1.3.2."""
    if index >= checkpoint.size:
        return False
    node, last, found = index, checkpoint.size - 1, leaf_hash(leaf)
    for hashed in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            found = node_hash(hashed, found)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, hashed)
        node, last = node >> 1, last >> 1
    return last == 0 and found == checkpoint.root


def opened(note: bytes, vkey: str) -> Checkpoint:
    """The checkpoint in a signed note, once the key's signature is verified. Raises ValueError."""
    name, key_hash, encoded = vkey.strip().split("+", 2)
    key = base64.b64decode(encoded)
    if key[0] != 1 or hashlib.sha256(f"{name}\n".encode() + key).digest()[:4].hex() != key_hash:
        raise ValueError(f"{vkey} is not the key of a log")
    text, _, signatures = note.decode().rpartition("\n\n")
    text += "\n"
    for line in signatures.splitlines():
        signer, _, signature = line.removeprefix("\u2014 ").partition(" ")
        raw = base64.b64decode(signature)
        if signer == name and raw[:4].hex() == key_hash:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(raw[4:], text.encode())  # raises InvalidSignature
            origin, size, root = text.splitlines()[:3]
            return Checkpoint(origin, int(size), base64.b64decode(root))
    raise ValueError(f"the note is not signed by {name}+{key_hash}")
