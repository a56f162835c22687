"""Checks of what the target proves: checkpoints, cosignatures, proofs, statements."""

from __future__ import annotations

import json

import grpc

from scheduler.core.merkle import verify_consistency, verify_inclusion
from scheduler.core.models import canonical_bytes
from scheduler.exchange.conformance.callers import Calls
from scheduler.exchange.conformance.delivery import pools
from scheduler.exchange.conformance.log import Log
from scheduler.exchange.conformance.outcome import Failed, Skipped, must, refused
from scheduler.exchange.conformance.target import Target
from scheduler.exchange.peers import Role
from scheduler.exchange.statements import statement_of, versions_of
from scheduler.exchange.v1 import delivery_pb2
from scheduler.ledger.keys import Kind, SignerKey, VerifierKey
from scheduler.ledger.notes import cosign, cosigned_at_s, open_checkpoint, open_note

_LEAVES = 11
_CLOCKS_DIFFER_S = 300


def checkpoint_verifies(target: Target) -> str:
    """Signed by the log's key, over the leaves that are held, with their root."""
    log = _delivered_log(target)
    answer = target.checkpoint(log)
    checkpoint = open_checkpoint(answer.checkpoint, [log.key.verifier], origin=log.key.name)
    must(answer.size == len(log.leaves), f"size is {answer.size}, {len(log.leaves)} leaves were acknowledged")
    must(checkpoint.size <= answer.size, f"the checkpoint is over {checkpoint.size} leaves, {answer.size} are held")
    must(checkpoint.root == log.root(checkpoint.size), f"its root is {checkpoint.root.hex()}, not that of the leaves")
    return f"{checkpoint.size} leaves, root {checkpoint.root.hex()[:16]}"


def checkpoint_of_the_unknown(target: Target) -> str:
    """A stream that there is not."""
    log = Log(f"no-such-{target.run}", 1, fresh=True)
    return str(refused(lambda: target.checkpoint(log), grpc.StatusCode.NOT_FOUND, "UNKNOWN_NAME"))


def cosignature_verifies(target: Target) -> str:
    """The exchange cosigns what it recomputed (C2SP cosignature/v1), and says with which key."""
    log = target.log()
    session = target.deliver(log, *pools(target, 2))
    must(bool(session.cosigned), "no cosigned checkpoint came with the acknowledgement of its last leaf")
    witness = VerifierKey.parse(session.witness)
    must(witness.kind is Kind.COSIGNATURE, f"the witness's key is of kind {int(witness.kind)}, expected 4")
    opened = open_note(session.cosigned, [log.key.verifier, witness])
    at_s = cosigned_at_s(opened, witness)
    if at_s is None:
        raise Failed("the note has no verified cosignature of the witness that it came with")
    checkpoint = open_checkpoint(session.cosigned, [log.key.verifier], origin=log.key.name)
    must(checkpoint.root == log.root(checkpoint.size), "the cosigned root is not that of the leaves")
    away_s = abs(at_s - target.now_ms() // 1_000)
    must(target.options.quick or away_s <= _CLOCKS_DIFFER_S, f"it was cosigned {away_s} s away from now")
    answer = target.checkpoint(log)
    must(
        session.witness in answer.witnesses[:1],
        f"witnesses are {list(answer.witnesses)}, its own goes first",
    )
    open_note(answer.checkpoint, [witness])
    return f"{witness.name} cosigned {checkpoint.size} leaves"


def inclusion_is_proved(target: Target) -> str:
    """RFC 9162, section 2.1.3: each leaf, in trees of several sizes."""
    log = _delivered_log(target)
    held, count = len(log.leaves), 0
    for size in sorted({1, held // 2 or 1, held - 1 or 1, held}):
        root = log.root(size)
        for index in sorted({0, size // 3, size - 1}):
            proof = target.proof(log, index, size, inclusion=True)
            proved = verify_inclusion(log.hashes[index], index, size, proof, root)
            must(proved, f"the proof of leaf {index} in {size} leaves does not verify")
            count += 1
    return f"{count} proofs verify"


def consistency_is_proved(target: Target) -> str:
    """RFC 9162, section 2.1.4: each size is the beginning of each larger one."""
    log = _delivered_log(target)
    held, count = len(log.leaves), 0
    sizes = sorted({1, held // 3 or 1, held // 2 or 1, held - 1 or 1, held})
    for at, first in enumerate(sizes):
        for second in sizes[at + 1 :]:
            proof = target.proof(log, first, second, inclusion=False)
            proved = verify_consistency(first, second, log.root(first), log.root(second), proof)
            must(proved, f"the proof from {first} to {second} leaves does not verify")
            count += 1
    return f"{count} proofs verify"


def proofs_outside_are_refused(target: Target) -> str:
    """Of leaves that are not there."""
    log = _delivered_log(target)
    held = len(log.leaves)
    wrong = grpc.StatusCode.INVALID_ARGUMENT
    refused(lambda: target.proof(log, held, held, inclusion=True), wrong)
    refused(lambda: target.proof(log, 0, held + 1_000, inclusion=True), wrong)
    return str(refused(lambda: target.proof(log, held, held + 1_000, inclusion=False), wrong))


def other_witnesses_are_taken(target: Target) -> str:
    """Somebody else's cosignature under the latest checkpoint, and none that is wrong."""
    log = _delivered_log(target)
    calls = target.called_by(Role.AUDITOR, Role.EXCHANGE)
    witness = SignerKey.generate(f"conformance.test/witness-{target.run}")
    note = target.checkpoint(log).checkpoint
    signed = cosign(note, witness, target.now_ms() // 1_000)
    merged = _add(calls, target, log, signed, witness)
    open_note(merged, [witness.witness])
    answer = target.checkpoint(log)
    must(witness.witness.encode() in answer.witnesses, "the added witness is not among the witnesses")
    open_note(answer.checkpoint, [witness.witness])
    stranger = SignerKey.generate(witness.name + "-2")
    refusal = refused(
        lambda: _add(calls, target, log, signed, stranger), grpc.StatusCode.PERMISSION_DENIED, "UNAUTHORISED"
    )
    return f"added; one that did not sign: {refusal}"


def statement_is_recomputed(target: Target) -> str:
    """The same bytes from the same leaves, whoever computes them."""
    done = target.delivered()
    until_ms = done.until_ms
    answer = target.statement(done.owned.position.id, until_ms)
    versions = versions_of(enumerate(done.settled), done.owned.position.id)
    expected = canonical_bytes(statement_of(done.owned.terms, done.owned.position, versions, until_ms))
    if answer.statement != expected:
        raise Failed(first_difference(answer.statement, expected))
    said = json.loads(expected)
    return (
        f"{len(expected)} bytes, {said['amount_micro']} micro-units of {said['currency']} for {said['records']} records"
    )


def statement_has_its_checkpoint(target: Target) -> str:
    """Over the leaves that it was made from."""
    done = target.delivered()
    note = target.statement(done.owned.position.id, done.until_ms).checkpoint
    checkpoint = open_checkpoint(note, [done.log.key.verifier], origin=done.log.key.name)
    must(checkpoint.root == done.log.root(checkpoint.size), "the checkpoint is not over the leaves of the log")
    least = 1 + max(index for index, leaf in enumerate(done.log.leaves) if leaf in done.settled)
    must(
        checkpoint.size >= least,
        f"it is over {checkpoint.size} leaves, the statement uses leaf {least - 1}",
    )
    return f"under {checkpoint.size} leaves"


def statement_of_the_unknown(target: Target) -> str:
    """Nobody owns it."""
    name = f"no-such-{target.run}"
    return str(refused(lambda: target.statement(name), grpc.StatusCode.NOT_FOUND, "UNKNOWN_NAME"))


def statement_before_any_record(target: Target) -> str:
    """Nothing is metered yet: there is nothing to settle, and it says so."""
    if target.market.given:
        raise Skipped("the position that was given is delivered to: needs TradingService")
    owned = target.market.owned()
    refusal = refused(lambda: target.statement(owned.position.id), grpc.StatusCode.INVALID_ARGUMENT)
    return str(refusal)


def _delivered_log(target: Target) -> Log:
    log = target.log()
    if len(log.leaves) < _LEAVES:
        target.deliver(log, *pools(target, _LEAVES - len(log.leaves)))
    return log


def _add(calls: Calls, target: Target, log: Log, note: bytes, witness: SignerKey) -> bytes:
    request = delivery_pb2.AddCosignatureRequest(stream=log.stream, checkpoint=note, vkey=witness.witness.encode())
    answer: delivery_pb2.AddCosignatureResponse = calls.evidence.AddCosignature(request, timeout=target.timeout_s)
    return answer.checkpoint


def first_difference(was: bytes, expected: bytes) -> str:
    """What differs, by field where both are JSON."""
    try:
        said, wanted = json.loads(was), json.loads(expected)
        for name in sorted(said.keys() | wanted.keys()):
            if said.get(name) != wanted.get(name):
                return f"{name} is {said.get(name)!r}, expected {wanted.get(name)!r}"
    except (ValueError, AttributeError):
        return f"{was[:80]!r}, expected {expected[:80]!r}"
    return "the same content in other bytes: canonical JSON has sorted keys and no spaces"
