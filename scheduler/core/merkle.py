"""The RFC 9162 Merkle tree: roots, inclusion proofs and consistency proofs over lists of leaves.

It exists so that a seller's records can be checked by people who do not trust the seller: a root of 32 bytes fixes
every record and its order, a proof of a few hashes shows that one record is among them, or that an older log is a
prefix of a newer one.

Hashing (RFC 9162 section 2.1.1, the same as RFC 6962 section 2.1): a leaf is `SHA-256(0x00 || leaf)`, a node is
`SHA-256(0x01 || left || right)`, the empty tree is `SHA-256("")`. A hash is 32 `bytes`. A *perfect subtree* is named by
`(height, index)`: the leaves `[index << height, (index + 1) << height)`.

Laws: provers refuse positions outside the tree with `InvalidValue`; verifiers take anything at all and answer True or
False, never an exception; in a tree of one size and root, a proof verifies for one leaf at one position only. A root
alone does not fix the size: a checkpoint signs both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from scheduler.core.errors import InvalidValue

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""

PerfectSubtrees = Callable[[int, int], bytes]
"""Gives the hash of the perfect subtree `(height, index)`; asked only for subtrees that are inside the tree."""

_sha256 = hashlib.sha256


def leaf_hash(leaf: bytes) -> bytes:
    """The 32-byte hash of a leaf (RFC 9162 section 2.1.1)."""
    return _sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The 32-byte hash of an inner node (RFC 9162 section 2.1.1)."""
    return _sha256(b"\x01" + left + right).digest()


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over `leaf_hashes`; `EMPTY_ROOT` where there are none. O(n)."""
    return CompactRange().extend(leaf_hashes).root()


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int, size: int) -> tuple[bytes, ...]:
    """The proof that leaf `index` is in the tree of the first `size` leaves, nearest sibling first. O(n).

    Raises InvalidValue unless `0 <= index < size <= len(leaf_hashes)`. Source: RFC 9162 section 2.1.3.1.
    """
    _inside("size", size, 1, len(leaf_hashes))
    return inclusion_proof_from(_subtrees_of(leaf_hashes[:size]), index, size)


def consistency_proof(leaf_hashes: Sequence[bytes], first: int, second: int) -> tuple[bytes, ...]:
    """The proof that the tree of `first` leaves is a prefix of the tree of `second` leaves. O(n).

    Empty where `first` is 0 or `second`. Raises InvalidValue unless `0 <= first <= second <= len(leaf_hashes)`.
    Source: RFC 9162 section 2.1.4.1.
    """
    _inside("second", second, 0, len(leaf_hashes))
    return consistency_proof_from(_subtrees_of(leaf_hashes[:second]), first, second)


def root_from(subtrees: PerfectSubtrees, size: int) -> bytes:
    """The root of the first `size` leaves, from O(log size) stored subtrees."""
    return _range_hash(subtrees, 0, size) if size else EMPTY_ROOT


def range_from(subtrees: PerfectSubtrees, size: int) -> CompactRange:
    """The compact range of the first `size` leaves, from O(log size) stored subtrees."""
    return CompactRange(size, tuple(_tiling(subtrees, 0, size)))


def inclusion_proof_from(subtrees: PerfectSubtrees, index: int, size: int) -> tuple[bytes, ...]:
    """`inclusion_proof` from O(log size) stored subtrees."""
    _inside("size", size, 1, None)
    _inside("index", index, 0, size - 1)
    siblings: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + _split(end - start)
        if index < split:
            siblings.append(_range_hash(subtrees, split, end))
            end = split
        else:
            siblings.append(_range_hash(subtrees, start, split))
            start = split
    return tuple(reversed(siblings))


def consistency_proof_from(subtrees: PerfectSubtrees, first: int, second: int) -> tuple[bytes, ...]:
    """`consistency_proof` from O(log second) stored subtrees."""
    _inside("second", second, 0, None)
    _inside("first", first, 0, second)
    if first in (0, second):
        return ()
    hashes: list[bytes] = []
    start, end = 0, second
    while first != end:
        split = start + _split(end - start)
        if first <= split:
            hashes.append(_range_hash(subtrees, split, end))
            end = split
        else:
            hashes.append(_range_hash(subtrees, start, split))
            start = split
    if start:  # where start is 0 the verifier has this hash already: it is the first root
        hashes.append(_range_hash(subtrees, start, end))
    return tuple(reversed(hashes))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], tree_root: bytes) -> bool:
    """Whether `proof` shows the leaf with hash `leaf` at `index` of the tree of `size` leaves with that root.

    Never raises, whatever it is given. Source: RFC 9162 section 2.1.3.2.
    """
    if not (_is_count(index) and _is_count(size) and index < size and _are_hashes(proof, leaf, tree_root)):
        return False
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and computed == tree_root


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree `(first, first_root)` is a prefix of the tree `(second, second_root)`.

    Every tree extends the empty one, and itself, by the empty proof. Never raises, whatever it is given.
    Source: RFC 9162 section 2.1.4.2.
    """
    known = _is_count(first) and _is_count(second) and first <= second
    if not (known and _are_hashes(proof, first_root, second_root)):
        return False
    if first == second:
        return not proof and first_root == second_root and (first > 0 or first_root == EMPTY_ROOT)
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    path = list(proof) if first & (first - 1) else [first_root, *proof]
    if not path:
        return False
    return _consistency_roots(first, second, path) == (first_root, second_root)


@dataclass(frozen=True, slots=True)
class CompactRange:
    """The right edge of a tree: all that is needed to append to it and to know its root. About log2(size) hashes.

    `hashes` are the perfect subtrees that tile the first `size` leaves, largest first: one for each 1 in the binary
    form of `size`. Raises InvalidValue where the number of hashes is another.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = field(default=())

    def __post_init__(self) -> None:
        if not _is_count(self.size):
            raise InvalidValue("size", "a compact range", self.size, "an integer of 0 or more")
        if len(self.hashes) != self.size.bit_count() or not _are_hashes(self.hashes):
            expected = f"{self.size.bit_count()} hashes of {HASH_BYTES} bytes for {self.size} leaves"
            raise InvalidValue("hashes", "a compact range", self.hashes, expected)

    def append(self, leaf: bytes) -> CompactRange:
        """The range with one leaf hash more."""
        return self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> CompactRange:
        """The range with those leaf hashes more; one node hash for each, amortised."""
        size, stack = self.size, list(self.hashes)
        for leaf in leaves:
            merged, ones = leaf, size
            while ones & 1:
                merged = _sha256(b"\x01" + stack.pop() + merged).digest()
                ones >>= 1
            stack.append(merged)
            size += 1
        return CompactRange(size, tuple(stack))

    def root(self) -> bytes:
        """The root of the tree of `size` leaves."""
        if not self.hashes:
            return EMPTY_ROOT
        merged = self.hashes[-1]
        for left in self.hashes[-2::-1]:
            merged = node_hash(left, merged)
        return merged


def subtree_rows(hashes: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """All perfect subtrees over `hashes`: row `h` holds those of height `h`, row 0 is `hashes` itself."""
    rows = [tuple(hashes)]
    while len(rows[-1]) > 1:
        below = rows[-1]
        pairs = zip(below[0::2], below[1::2], strict=False)  # an odd last hash has no parent yet
        rows.append(tuple([_sha256(b"\x01" + left + right).digest() for left, right in pairs]))
    return tuple(rows)


def _consistency_roots(first: int, second: int, path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """The two roots that `path` leads to; None where its length is wrong. Source: RFC 9162 section 2.1.4.2."""
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            return None
        if node & 1 or node == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        node, last = node >> 1, last >> 1
    return (older, newer) if last == 0 else None


def _range_hash(subtrees: PerfectSubtrees, start: int, end: int) -> bytes:
    """The hash of the leaves `[start, end)`, where `start` is a multiple of a power of two of at least their number."""
    parts = list(_tiling(subtrees, start, end))
    merged = parts.pop()
    while parts:
        merged = node_hash(parts.pop(), merged)
    return merged


def _tiling(subtrees: PerfectSubtrees, start: int, end: int) -> Iterator[bytes]:
    """The perfect subtrees that tile those leaves, largest first."""
    while start < end:
        height = (end - start).bit_length() - 1
        yield subtrees(height, start >> height)
        start += 1 << height


def _subtrees_of(leaf_hashes: Sequence[bytes]) -> PerfectSubtrees:
    rows = subtree_rows(leaf_hashes)
    return lambda height, index: rows[height][index]


def _split(size: int) -> int:
    """The largest power of two smaller than `size`, which is 2 or more."""
    return 1 << ((size - 1).bit_length() - 1)


def _inside(what: str, was: int, low: int, high: int | None) -> None:
    if not _is_count(was) or was < low or (high is not None and was > high):
        expected = f"an integer of {low} or more" if high is None else f"an integer in {low}..{high}"
        raise InvalidValue(what, "a Merkle proof", was, expected)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_hashes(hashes: object, *more: object) -> bool:
    if not isinstance(hashes, tuple | list):
        return False
    return all(isinstance(item, bytes) and len(item) == HASH_BYTES for item in (*hashes, *more))
