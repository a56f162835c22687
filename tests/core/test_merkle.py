"""The Merkle tree against the recursive definition of RFC 9162, the published vectors, and pymerkle."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree, verify_consistency

from scheduler.core import merkle
from scheduler.core.errors import InvalidValue
from scheduler.core.merkle import CompactRange

leaf_lists = st.lists(st.binary(max_size=40), max_size=70)
sizes = st.integers(1, 70)

# The leaves and roots of certificate-transparency's reference tests (merkle_tree_test.cc).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def _sha(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _split(count: int) -> int:
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def _mth(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word for word."""
    if not leaves:
        return _sha(b"")
    if len(leaves) == 1:
        return _sha(b"\x00" + leaves[0])
    k = _split(len(leaves))
    return _sha(b"\x01" + _mth(leaves[:k]) + _mth(leaves[k:]))


def _path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162 section 2.1.3.1, word for word."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if m < k:
        return [*_path(m, leaves[:k]), _mth(leaves[k:])]
    return [*_path(m - k, leaves[k:]), _mth(leaves[:k])]


def _subproof(m: int, leaves: list[bytes], *, known: bool) -> list[bytes]:
    """RFC 9162 section 2.1.4.1, word for word."""
    if m == len(leaves):
        return [] if known else [_mth(leaves)]
    k = _split(len(leaves))
    if m <= k:
        return [*_subproof(m, leaves[:k], known=known), _mth(leaves[k:])]
    return [*_subproof(m - k, leaves[k:], known=False), _mth(leaves[:k])]


def _hashes(leaves: list[bytes]) -> list[bytes]:
    return [merkle.leaf_hash(leaf) for leaf in leaves]


def _numbered(count: int) -> list[bytes]:
    return [b"leaf %d" % i for i in range(count)]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert merkle.root(_hashes(CT_LEAVES[:size])).hex() == CT_ROOTS[size - 1]


def test_the_empty_root_is_the_hash_of_nothing() -> None:
    assert merkle.root([]) == CompactRange().root() == hashlib.sha256(b"").digest()


def test_the_example_of_the_rfc() -> None:
    """The tree of seven leaves of RFC 9162 section 2.1.5, with the letters used there."""
    leaves = _hashes(_numbered(7))
    a, b, c, d, e, f, j = leaves
    g, h, i = merkle.node_hash(a, b), merkle.node_hash(c, d), merkle.node_hash(e, f)
    k, m = merkle.node_hash(g, h), merkle.node_hash(i, j)
    assert merkle.root(leaves) == merkle.node_hash(k, m)
    assert merkle.inclusion_proof(leaves, 0, 7) == (b, h, m)
    assert merkle.inclusion_proof(leaves, 3, 7) == (c, g, m)
    assert merkle.inclusion_proof(leaves, 4, 7) == (f, j, k)
    assert merkle.inclusion_proof(leaves, 6, 7) == (i, k)
    assert merkle.consistency_proof(leaves, 3, 7) == (c, d, g, m)
    assert merkle.consistency_proof(leaves, 4, 7) == (m,)
    assert merkle.consistency_proof(leaves, 6, 7) == (i, j, k)


@given(leaf_lists)
def test_the_root_is_the_recursive_definition(leaves: list[bytes]) -> None:
    assert merkle.root(_hashes(leaves)) == _mth(leaves)


@given(sizes, st.data())
def test_inclusion_proofs_are_the_recursive_definition_and_verify(size: int, data: st.DataObject) -> None:
    leaves, hashes = _numbered(size), _hashes(_numbered(size))
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(hashes, index, size)
    assert list(proof) == _path(index, leaves)
    assert merkle.verify_inclusion(hashes[index], index, size, proof, merkle.root(hashes))


@given(sizes, st.data())
def test_consistency_proofs_are_the_recursive_definition_and_verify(second: int, data: st.DataObject) -> None:
    leaves, hashes = _numbered(second), _hashes(_numbered(second))
    first = data.draw(st.integers(1, second))
    proof = merkle.consistency_proof(hashes, first, second)
    assert list(proof) == _subproof(first, leaves, known=True)
    assert merkle.verify_consistency(first, second, merkle.root(hashes[:first]), merkle.root(hashes), proof)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=40), st.data())
def test_roots_and_inclusion_paths_agree_with_pymerkle(leaves: list[bytes], data: st.DataObject) -> None:
    tree = InmemoryTree.init_from_entries(leaves, algorithm="sha256")
    index = data.draw(st.integers(0, len(leaves) - 1))
    hashes = _hashes(leaves)
    assert merkle.root(hashes) == tree.get_root()
    theirs = tree.prove_inclusion(index + 1, len(leaves)).serialize()["path"]  # counts from 1
    ours = (hashes[index], *merkle.inclusion_proof(hashes, index, len(leaves)))
    assert sorted(theirs) == sorted(item.hex() for item in ours)  # theirs is in order of position, with the leaf


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=40), st.data())
def test_every_older_root_agrees_with_pymerkle_and_so_does_its_consistency(
    leaves: list[bytes], data: st.DataObject
) -> None:
    tree = InmemoryTree.init_from_entries(leaves, algorithm="sha256")
    first = data.draw(st.integers(1, len(leaves)))
    hashes = _hashes(leaves)
    older, newer = merkle.root(hashes[:first]), merkle.root(hashes)
    assert (tree.get_root(first), tree.get_root()) == (older, newer)
    theirs = tree.prove_consistency(first, len(leaves))
    verify_consistency(older, newer, theirs)  # raises where they do not agree; its form of a proof is not the RFC's


@given(sizes, st.data())
def test_a_proof_shows_one_leaf_at_one_position_only(size: int, data: st.DataObject) -> None:
    hashes = _hashes(_numbered(size))
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(hashes, index, size)
    shown = merkle.verify_inclusion(hashes[other], index, size, proof, merkle.root(hashes))
    assert shown == (other == index)
    assert merkle.verify_inclusion(hashes[index], other, size, proof, merkle.root(hashes)) == (other == index)


@given(sizes, st.data())
def test_a_changed_inclusion_proof_fails(size: int, data: st.DataObject) -> None:
    hashes = _hashes(_numbered(size))
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(hashes, index, size)
    changed = data.draw(_changes_of(proof))
    assert not merkle.verify_inclusion(hashes[index], index, size, changed, merkle.root(hashes))


@given(st.integers(2, 70), st.data())
def test_a_changed_consistency_proof_fails(second: int, data: st.DataObject) -> None:
    hashes = _hashes(_numbered(second))
    first = data.draw(st.integers(1, second))
    proof = merkle.consistency_proof(hashes, first, second)
    changed = data.draw(_changes_of(proof))
    assert not merkle.verify_consistency(first, second, merkle.root(hashes[:first]), merkle.root(hashes), changed)


@given(st.integers(2, 70), st.data())
def test_a_rewritten_past_is_not_consistent(second: int, data: st.DataObject) -> None:
    hashes = _hashes(_numbered(second))
    first = data.draw(st.integers(1, second))
    rewritten = list(hashes)
    rewritten[data.draw(st.integers(0, first - 1))] = merkle.leaf_hash(b"another past")
    proof = merkle.consistency_proof(rewritten, first, second)
    assert not merkle.verify_consistency(first, second, merkle.root(hashes[:first]), merkle.root(rewritten), proof)


anything: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 2**70),
    st.floats(),
    st.text(max_size=5),
    st.binary(min_size=32, max_size=32),
    st.lists(st.binary(min_size=31, max_size=33), max_size=80),
)


@given(anything, anything, anything, anything, anything)
def test_the_verifiers_answer_whatever_they_are_given(one: Any, two: Any, three: Any, four: Any, five: Any) -> None:
    assert merkle.verify_inclusion(one, two, three, four, five) in (True, False)
    assert merkle.verify_consistency(one, two, three, four, five) in (True, False)


hashes_32 = st.binary(min_size=32, max_size=32)


@given(st.integers(0, 2**70), st.integers(0, 2**70), st.lists(hashes_32, max_size=80), hashes_32, hashes_32)
def test_a_made_up_proof_never_verifies(one: int, two: int, proof: list[bytes], left: bytes, right: bytes) -> None:
    first, second = sorted((one, two))
    its_own_proof = (first, second, proof) == (0, 1, []) and left == right  # a tree of one leaf
    assert merkle.verify_inclusion(left, first, second, proof, right) == its_own_proof
    assert not merkle.verify_consistency(first, second + 1, left, right, proof)


def test_every_tree_extends_the_empty_one_and_itself() -> None:
    hashes = _hashes(_numbered(5))
    assert merkle.consistency_proof(hashes, 0, 5) == merkle.consistency_proof(hashes, 5, 5) == ()
    assert merkle.verify_consistency(0, 5, merkle.EMPTY_ROOT, merkle.root(hashes), ())
    assert merkle.verify_consistency(5, 5, merkle.root(hashes), merkle.root(hashes), ())
    assert not merkle.verify_consistency(0, 5, merkle.root(hashes), merkle.root(hashes), ())
    assert not merkle.verify_consistency(0, 0, merkle.root(hashes), merkle.root(hashes), ())


@given(leaf_lists, st.integers(0, 70))
def test_a_compact_range_can_stop_anywhere_and_go_on(leaves: list[bytes], cut: int) -> None:
    hashes = _hashes(leaves)
    whole = CompactRange().extend(hashes)
    assert whole == CompactRange().extend(hashes[:cut]).extend(hashes[cut:])
    one_by_one = CompactRange()
    for item in hashes:
        one_by_one = one_by_one.append(item)
    assert one_by_one == whole == CompactRange(whole.size, whole.hashes)
    assert whole.root() == _mth(leaves)


@pytest.mark.parametrize(("size", "hashes"), [(1, ()), (2, (b"\0" * 32,) * 2), (1, (b"short",)), (-1, ()), (True, ())])
def test_a_compact_range_that_cannot_be_is_refused(size: int, hashes: tuple[bytes, ...]) -> None:
    with pytest.raises(InvalidValue):
        CompactRange(size, hashes)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, 6), (True, 3), (0, -1)])
def test_inclusion_of_a_position_outside_the_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(InvalidValue, match="a Merkle proof"):
        merkle.inclusion_proof(_hashes(_numbered(5)), index, size)


@pytest.mark.parametrize(("first", "second"), [(-1, 3), (4, 3), (0, 6), (2, -1)])
def test_consistency_of_sizes_outside_the_tree_is_refused(first: int, second: int) -> None:
    with pytest.raises(InvalidValue, match="a Merkle proof"):
        merkle.consistency_proof(_hashes(_numbered(5)), first, second)


def _changes_of(proof: tuple[bytes, ...]) -> st.SearchStrategy[list[bytes]]:
    """One hash flipped, left out, added or repeated."""
    longer = st.integers(0, len(proof)).map(lambda at: [*proof[:at], merkle.EMPTY_ROOT, *proof[at:]])
    if not proof:
        return longer
    at_any = st.integers(0, len(proof) - 1)
    flipped = st.tuples(at_any, st.integers(0, 255)).map(lambda where: _flip(proof, *where))
    shorter = at_any.map(lambda at: [*proof[:at], *proof[at + 1 :]])
    return st.one_of(longer, flipped, shorter)


def _flip(proof: tuple[bytes, ...], at: int, bit: int) -> list[bytes]:
    changed = bytearray(proof[at])
    changed[bit // 8] ^= 1 << (bit % 8)
    return [*proof[:at], bytes(changed), *proof[at + 1 :]]
