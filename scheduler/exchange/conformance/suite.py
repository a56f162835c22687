"""The table of all checks, and how they are run: one after the other, each by itself, until somebody says stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import grpc

from scheduler.core.errors import TenorError, UnknownName
from scheduler.exchange.conformance import access, delivery, evidence, leaves, positions, settling, trading, transport
from scheduler.exchange.conformance.outcome import Failed, Skipped, refusal_of
from scheduler.exchange.conformance.target import Target


class Status(StrEnum):
    """What a check came to."""

    PASS = "PASS"  # noqa: S105 - not a password
    FAIL = "FAIL"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `rule`: what of the documents it is about; `slow`: left out where one is in haste."""

    name: str
    area: str
    rule: str
    expected: str
    run: Callable[[Target], str]
    slow: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What a check saw, and how long it took."""

    check: Check
    status: Status
    seen: str
    took_ms: int


def _of(area: str, *rows: tuple[Callable[[Target], str], str, str]) -> tuple[Check, ...]:
    return tuple(Check(run.__name__, area, rule, expected, run) for run, rule, expected in rows)


CHECKS: tuple[Check, ...] = (
    *_of(
        "transport",
        (transport.health_is_told, "health", "SERVING for the server and each service"),
        (transport.reflection_is_off, "no reflection", "UNIMPLEMENTED or PERMISSION_DENIED"),
        (access.strangers_get_nothing, "who may what", "no answer without a certificate; plaintext on loopback only"),
        (transport.abandoned_streams_are_freed, "deadlines", "streams whose deadline is over take no place"),
    ),
    *_of(
        "positions",
        (positions.instruments_are_sound, "terms", "canonical terms, their SHA-256, the same in the repeated fields"),
        (positions.instruments_by_prefix, "terms", "the symbols that begin so, and no others"),
        (positions.snapshot_is_sound, "recovery", "well-formed positions, with their instruments, at one cursor"),
        (positions.snapshot_of_an_account, "recovery", "the positions of that account, and no others"),
        (positions.other_streams_are_unknown, "cursor", "NOT_FOUND UNKNOWN_NAME"),
        (positions.cursor_is_dense, "cursor", "seq 1, 2, 3 and on, or OUT_OF_RANGE CURSOR_COMPACTED"),
        (positions.watch_goes_on_from_a_snapshot, "recovery", "what was traded after it, whose fold is the next one"),
        (positions.watch_repeats_itself, "cursor", "the same events, byte for byte"),
        (positions.watch_tells_events_as_they_come, "recovery", "the event of a trade, on the open watch"),
        (positions.instruments_come_before_their_events, "recovery", "terms before any event about them"),
        (positions.events_are_sound, "versions", "events of known kinds, in order of committed_ms"),
        (positions.heartbeats_name_what_comes_next, "quiet gaps", "each second, with the cursor of the next event"),
        (positions.cursor_ahead_is_refused, "cursor", "FAILED_PRECONDITION CONFLICT"),
        (positions.cursor_of_an_epoch_that_is_over, "recovery", "OUT_OF_RANGE CURSOR_COMPACTED"),
        (positions.cursor_that_is_none, "errors", "INVALID_ARGUMENT"),
    ),
    *_of(
        "trading",
        (trading.listing_repeats, "idempotency", "the same answer, one listing, the terms byte for byte"),
        (trading.listing_never_changes, "terms", "FAILED_PRECONDITION CONFLICT"),
        (trading.listing_names_every_fault, "errors", "INVALID_ARGUMENT INVALID_INSTRUMENT, each fault a violation"),
        (trading.listing_hash_is_checked, "terms", "INVALID_ARGUMENT"),
        (trading.listing_fields_agree, "terms", "INVALID_ARGUMENT"),
        (trading.listing_terms_are_canonical, "terms", "INVALID_ARGUMENT"),
        (trading.listing_enum_is_known, "versions", "INVALID_ARGUMENT for a cell that is not known"),
        (trading.trade_repeats, "idempotency", "the same answer for the same request"),
        (trading.trade_changed_is_refused, "idempotency", "FAILED_PRECONDITION CONFLICT"),
        (trading.trade_in_the_past_is_refused, "conservation", "INVALID_ARGUMENT"),
        (trading.trade_of_the_unknown_is_refused, "errors", "NOT_FOUND UNKNOWN_NAME"),
        (trading.trade_id_is_bounded, "idempotency", "INVALID_ARGUMENT for a request id of 10,000 characters"),
        (trading.oversold_is_refused, "conservation", "FAILED_PRECONDITION OVERSOLD beyond the lots listed"),
        (trading.transfer_conserves, "conservation", "what one gives the other gets; OVERSOLD for more"),
        (trading.split_stays_in_the_account, "conservation", "a SPLIT, of the same account"),
        (trading.correction_to_nothing_ends, "conservation", "a CORRECTION, then an EXPIRY"),
    ),
    *_of(
        "delivery",
        (delivery.opening_says_what_is_held, "flow", "how many leaves are durable, and at least one credit"),
        (delivery.opening_comes_first, "errors", "INVALID_ARGUMENT for a batch without an opening"),
        (delivery.opening_is_checked, "errors", "INVALID_ARGUMENT for epoch 0 and for what is no key"),
        (delivery.acknowledged_survives, "ack", "what was acknowledged is held in the next connection"),
        (delivery.acknowledgements_add_up, "ack", "a count that only grows, up to all leaves"),
        (delivery.credits_are_kept, "flow", "as many leaves as were granted are taken without waiting"),
        (delivery.resent_is_acknowledged_again, "idempotency", "the same count again, and no leaf twice"),
        (transport.usual_batch_is_taken, "batches", "512 leaves in one message"),
        (transport.large_message_is_refused, "batches", "refused for good beyond 16 MiB, and the server goes on"),
        (delivery.gap_is_refused, "ack", "FAILED_PRECONDITION SEQUENCE_GAP, and nothing is kept"),
        (delivery.older_epoch_is_fenced, "epoch", "ABORTED FENCED at the opening"),
        (delivery.newer_epoch_fences, "epoch", "ABORTED FENCED for the older, the newer goes on"),
        (delivery.later_of_equals_speaks, "epoch", "ABORTED FENCED for the earlier, the later goes on"),
        (delivery.key_is_kept, "key", "PERMISSION_DENIED UNAUTHORISED for another key"),
        (delivery.checkpoint_is_signed, "checkpoint", "PERMISSION_DENIED, and nothing is kept"),
        (delivery.checkpoint_is_over_the_leaves, "checkpoint", "INVALID_ARGUMENT, and nothing is kept"),
        (delivery.checkpoint_reaches_the_batch, "checkpoint", "INVALID_ARGUMENT, and nothing is kept"),
        (delivery.checkpoint_ahead_is_proved, "checkpoint", "taken with its consistency proof, else INVALID_ARGUMENT"),
        (
            delivery.leaf_equivocation_freezes,
            "idempotency",
            "FAILED_PRECONDITION EQUIVOCATION, and none after it",
        ),
        (delivery.checkpoint_equivocation_freezes, "checkpoint", "FAILED_PRECONDITION EQUIVOCATION, and none after it"),
    ),
    *_of(
        "leaves",
        (leaves.bad_leaf_alone, "bad leaf", "kept, MALFORMED, the leaves around it settled"),
        (leaves.enum_value_is_known, "versions", "MALFORMED, never guessed"),
        (leaves.leaf_kind_is_known, "versions", "MALFORMED, never guessed"),
        (leaves.states_add_up, "conservation", "BROKEN_IDENTITY"),
        (leaves.pool_adds_up, "conservation", "BROKEN_IDENTITY"),
        (leaves.position_is_known, "bad leaf", "UNKNOWN_POSITION"),
        (leaves.instrument_is_the_positions, "bad leaf", "WRONG_INSTRUMENT"),
        (leaves.interval_is_the_instruments, "bad leaf", "WRONG_INTERVAL"),
        (leaves.version_is_the_next, "bad leaf", "WRONG_VERSION"),
        (leaves.certificate_follows, "bad leaf", "WRONG_CERTIFICATE"),
        (leaves.device_is_pledged_once, "bad leaf", "PLEDGED_TWICE and NOT_PLEDGED"),
    ),
    *_of(
        "settling",
        (settling.promotion_is_the_next_version, "versions of records", "WRONG_VERSION for a correction of the former"),
        (settling.final_waits_for_its_time, "versions of records", "WRONG_PROMOTION before the terms' calendar"),
        (settling.final_changes_for_a_reason, "versions of records", "NOT_EXPLAINED without a late fact or a dispute"),
        (settling.dispute_is_answered_by_the_log, "disputes", "OPEN, and REJECTED with the reason that the log gives"),
        (settling.dispute_repeats, "idempotency", "the same dispute for the same request, else CONFLICT"),
        (settling.dispute_of_the_unknown_is_refused, "errors", "NOT_FOUND UNKNOWN_NAME, and INVALID_ARGUMENT"),
        (settling.answer_is_to_a_dispute, "disputes", "UNKNOWN_DISPUTE for what was not opened"),
        (settling.notices_are_read, "outages", "sound notices, recalls and releases are taken, others MALFORMED"),
        (settling.planned_is_settled, "outages", "the bytes that the suite computes from the same leaves"),
    ),
    *_of(
        "evidence",
        (evidence.checkpoint_verifies, "evidence", "signed by the log's key, over the root of the leaves"),
        (evidence.checkpoint_of_the_unknown, "errors", "NOT_FOUND UNKNOWN_NAME"),
        (evidence.cosignature_verifies, "witness", "a C2SP cosignature/v1 of the key that comes with it"),
        (evidence.inclusion_is_proved, "evidence", "proofs that verify by RFC 9162"),
        (evidence.consistency_is_proved, "evidence", "proofs that verify by RFC 9162"),
        (evidence.proofs_outside_are_refused, "errors", "INVALID_ARGUMENT"),
        (evidence.other_witnesses_are_taken, "witness", "added and given back; PERMISSION_DENIED for who did not sign"),
        (evidence.statement_is_recomputed, "statements", "the bytes that the suite computes from the same leaves"),
        (evidence.statement_has_its_checkpoint, "statements", "a checkpoint over the leaves that it uses"),
        (evidence.statement_of_the_unknown, "errors", "NOT_FOUND UNKNOWN_NAME"),
        (evidence.statement_before_any_record, "errors", "INVALID_ARGUMENT"),
    ),
    *_of(
        "access",
        (access.account_sees_its_own, "who may what", "its own positions; PERMISSION_DENIED for others' and for Watch"),
        (access.account_trades_for_itself, "who may what", "PERMISSION_DENIED for others, and for listings"),
        (access.cluster_publishes_its_own, "who may what", "PERMISSION_DENIED on any other stream"),
        (access.auditor_only_reads, "who may what", "reads all; PERMISSION_DENIED for what changes anything"),
        (access.statement_is_its_owners, "who may what", "PERMISSION_DENIED"),
    ),
    Check(
        transport.pings_are_taken.__name__,
        "transport",
        "keepalive",
        f"a quiet stream lives, with a ping each {transport.PING_MS // 1_000} s",
        transport.pings_are_taken,
        slow=True,
    ),
)


def chosen(names: Sequence[str], *, quick: bool = False) -> tuple[Check, ...]:
    """The checks of these names or areas, in the order of the table; none named: all, without slow ones where `quick`.

    Raises UnknownName.
    """
    known = {check.name for check in CHECKS} | {check.area for check in CHECKS}
    for name in names:
        if name not in known:
            raise UnknownName("check", name, known)
    if names:
        return tuple(check for check in CHECKS if check.name in names or check.area in names)
    return tuple(check for check in CHECKS if not (quick and check.slow))


def run(target: Target, checks: Sequence[Check]) -> Iterator[Result]:
    """The results, as they come. Whoever iterates may stop at any of them."""
    for check in checks:
        begun = time.monotonic()
        status, seen = _outcome(target, check)
        yield Result(check, status, " ".join(seen.split()), int((time.monotonic() - begun) * 1_000))


def _outcome(target: Target, check: Check) -> tuple[Status, str]:
    try:
        return Status.PASS, check.run(target)
    except Failed as failed:
        return Status.FAIL, str(failed)
    except Skipped as skipped:
        return Status.SKIPPED, str(skipped)
    except grpc.RpcError as failed:
        return _refused(failed)
    except TenorError as error:  # what came is no value of the model
        return Status.FAIL, f"{error.code}: {error}"
    except Exception as error:  # noqa: BLE001 - a server may send anything: one check must not end the others
        return Status.FAIL, f"the check could not read what came: {type(error).__name__}: {error}"


def _refused(failed: grpc.RpcError) -> tuple[Status, str]:
    """A call that was to succeed."""
    try:
        return Status.FAIL, f"a call that was to succeed: {refusal_of(failed)}"
    except Failed as unreadable:
        return Status.FAIL, str(unreadable)
