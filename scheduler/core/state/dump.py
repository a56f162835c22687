"""The state as bytes and back: what a snapshot keeps. Equal states give equal bytes.

One zip-free container: a line of canonical JSON for everything but the meter, then the meter's own dump.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from scheduler.core.causes import Cause
from scheduler.core.cluster import Fleet, Level, NodeSpec
from scheduler.core.device_probes import DeviceProbe
from scheduler.core.errors import Damaged
from scheduler.core.events import DevicesSeen, ScoreChosen
from scheduler.core.holdings import Holding
from scheduler.core.instruments import InstrumentTerms
from scheduler.core.intervals import StepFunction
from scheduler.core.metering.meter import Meter
from scheduler.core.models import canonical_bytes
from scheduler.core.positions import Cursor, Position, PositionBook
from scheduler.core.state.closings import Bind, ClosedInterval
from scheduler.core.state.gangs import Gangs
from scheduler.core.state.outages import Outages
from scheduler.core.state.settled import Settled
from scheduler.core.state.shortages import Shortage, Waits
from scheduler.core.state.state import State
from scheduler.core.state.withheld import dumped, loaded
from scheduler.core.workloads import Gang, GangSpec, GangStatus, Piece, StopCause, held_shape

LAYOUT = 7
_PIECES = TypeAdapter(tuple[Piece, ...])


def dump(state: State) -> bytes:
    """The state's bytes."""
    plain: dict[str, Any] = {
        "layout": LAYOUT,
        "now_ms": state.now_ms,
        "nodes": [node.model_dump(mode="json") for node in state.fleet.nodes],
        "cause": state.health.cause.tolist(),
        "ppm": state.health.ppm.tolist(),
        "marked": state.health.marked.tolist(),
        "since_ms": state.health.since_ms.tolist(),
        "draining": state.health.draining,
        "outages": state.outages.dump(),
        "binds": [list(bind) for bind in state.binds],
        "withheld": dumped(state.withheld),
        "gangs": [_gang(state.gangs.by_id[gang_id]) for gang_id in state.gangs.ids],
        "requests": state.gangs.requests,
        "occupant": state.gangs.occupant.tolist(),
        "claimant": state.gangs.claimant.tolist(),
        "shares": [[gpu, list(there.items())] for gpu, there in sorted(state.gangs.shares.by_gpu.items())],
        "holdings": [holding.model_dump(mode="json") for holding in state.calendar.holdings],
        "past": [holding.model_dump(mode="json") for holding in state.calendar.past],
        "owner_position": state.calendar.owner_position.tolist(),
        "owner_account": state.calendar.owner_account.tolist(),
        "until_ms": state.calendar.until_ms.tolist(),
        "turns": list(state.calendar.turns),
        "instruments": [terms.model_dump(mode="json") for terms in state.instruments.values()],
        "cursor": None if state.book.cursor is None else state.book.cursor.model_dump(mode="json"),
        "positions": [position.model_dump(mode="json") for position in state.book.positions.values()],
        "accounts": list(state.accounts),
        "position_index": list(state.position_index),
        "account_of_position": list(state.account_of_position.items()),
        "digests": {str(seq): digest.hex() for seq, digest in state.book.digests.items()},
        "refused": {name: int(cause) for name, cause in state.refused.items()},
        "refusals": {name: [list(step) for step in causes.steps] for name, causes in state.refusals.items()},
        "closed_ms": {str(length_ms): end_ms for length_ms, end_ms in state.closed_ms.items()},
        "closings": [list(closed) for closed in state.closings],
        "balances": sorted(state.balances.by_account.items()),
        "balances_settled_ms": state.balances.settled_ms,
    }
    if state.shortages:  # a state without any has the bytes that it had before they were known
        plain["shortages"] = [[*shortage, waits.certificate, waits.lots] for shortage, waits in _shortages(state)]
    settled = state.settled.dump()
    if settled is not None:
        plain["settled"] = settled
    if state.health.devices:
        plain["devices"] = [seen.model_dump(mode="json") for _, seen in sorted(state.health.devices.items())]
    if state.health.probed:
        plain["probed"] = [found.model_dump(mode="json") for _, found in sorted(state.health.probed.items())]
    if state.clock_error_ms:
        plain["clock_error_ms"] = state.clock_error_ms
    if state.score is not None:  # left out otherwise, as in snapshots from before there were scores
        plain["score"] = state.score.model_dump(mode="json")
    return canonical_bytes(plain) + b"\n" + state.meter.dump()


def is_readable(body: bytes) -> bool:
    """Whether the bytes are in this program's layout; those of another one's are of no use, and do no harm."""
    try:
        return bool(json.loads(body.partition(b"\n")[0])["layout"] == LAYOUT)
    except (ValueError, KeyError, TypeError):
        return True  # not a snapshot at all: `load` says what is wrong with it


def load(body: bytes) -> State:
    """The state that was dumped. Raises Damaged on bytes that `dump` did not write."""
    head, _, meter = body.partition(b"\n")
    try:
        plain = json.loads(head)
        if plain["layout"] != LAYOUT:
            raise Damaged(f"a snapshot has layout {plain['layout']}, expected {LAYOUT}")
        state = State()
        _load_fleet(state, plain)
        _load_positions(state, plain)
        _load_gangs(state.gangs, plain)
        if "settled" in plain:
            state.settled = Settled.load(plain["settled"])
        state.clock_error_ms = plain.get("clock_error_ms", 0)
        if "score" in plain:
            state.score = ScoreChosen.model_validate_json(json.dumps(plain["score"]))
        state.meter = Meter.load(meter)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"a snapshot cannot be read: {error}") from error
    return state


def _load_fleet(state: State, plain: dict[str, Any]) -> None:
    state.now_ms = plain["now_ms"]
    state.fleet = Fleet.of(tuple(NodeSpec.model_validate(node) for node in plain["nodes"]))
    state.health.grow(state.fleet.n_gpus)
    state.health.cause[:] = plain["cause"]
    state.health.ppm[:] = plain["ppm"]
    state.health.marked[:] = plain["marked"]
    state.health.since_ms[:] = plain["since_ms"]
    state.health.draining = plain["draining"]
    for told in plain.get("devices", ()):
        seen = DevicesSeen.model_validate_json(json.dumps(told))
        state.health.devices[seen.node] = seen
    for told in plain.get("probed", ()):
        found = DeviceProbe.model_validate_json(json.dumps(told))
        state.health.probed[found.device] = found
    state.health.refresh(state.fleet)
    state.outages = Outages.load(plain["outages"])
    state.calendar.holdings = tuple(Holding.model_validate_json(json.dumps(held)) for held in plain["holdings"])
    state.calendar.past = tuple(Holding.model_validate_json(json.dumps(held)) for held in plain["past"])
    state.calendar.grow(state.fleet)
    state.calendar.owner_position[:] = plain["owner_position"]
    state.calendar.owner_account[:] = plain["owner_account"]
    state.calendar.until_ms[:] = plain["until_ms"]
    state.calendar.turns = tuple(plain["turns"])


def _load_positions(state: State, plain: dict[str, Any]) -> None:
    for terms in plain["instruments"]:
        parsed = InstrumentTerms.model_validate_json(json.dumps(terms))
        state.instruments[parsed.id] = parsed
        state.floors_ppm.add(parsed.throughput.floor_ppm)
    positions = tuple(Position.model_validate_json(json.dumps(position)) for position in plain["positions"])
    if plain["cursor"] is not None:
        digests = {int(seq): bytes.fromhex(digest) for seq, digest in plain["digests"].items()}
        state.book = PositionBook.of(Cursor.model_validate(plain["cursor"]), positions, digests)
    state.accounts = {name: i for i, name in enumerate(plain["accounts"])}
    state.position_index = {name: i for i, name in enumerate(plain["position_index"])}
    state.account_of_position = dict(plain["account_of_position"])
    state.binds = [Bind(*bind) for bind in plain["binds"]]
    state.withheld = loaded(plain["withheld"])
    state.refresh_contracted()
    state.refused = {name: Cause(cause) for name, cause in plain["refused"].items()}
    state.refusals = {
        name: StepFunction(tuple((at_ms, cause) for at_ms, cause in steps)) for name, steps in plain["refusals"].items()
    }
    state.closed_ms = {int(length_ms): end_ms for length_ms, end_ms in plain["closed_ms"].items()}
    state.closings = tuple(ClosedInterval(*closed) for closed in plain["closings"])
    state.balances.by_account = dict(plain["balances"])
    state.balances.settled_ms = plain["balances_settled_ms"]
    for pool, level, firmness, certificate, lots in plain.get("shortages", ()):
        waits = Waits(certificate, tuple((position, count) for position, count in lots))
        state.shortages[Shortage(pool, Level(level), firmness)] = waits


def _shortages(state: State) -> list[tuple[Shortage, Waits]]:
    return sorted(state.shortages.items())


def _load_gangs(gangs: Gangs, plain: dict[str, Any]) -> None:
    for row in plain["gangs"]:
        gangs.restore(_loaded_gang(row))
    gangs.requests = plain["requests"]
    gangs.occupant = np.array(plain["occupant"], dtype=np.int64)
    gangs.claimant = np.array(plain["claimant"], dtype=np.int64)
    gangs.shares.by_gpu = {gpu: dict(there) for gpu, there in plain["shares"]}


_PLAIN = tuple(
    field.name for field in fields(Gang) if field.name not in {"spec", "shape", "pieces", "status", "stop_cause"}
)


def _gang(gang: Gang) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(gang, name) for name in _PLAIN}
    if not gang.evicted_ms:  # left out, as in snapshots from before it was kept
        del row["evicted_ms"]
    row["spec"] = gang.spec.model_dump(mode="json")
    row["pieces"] = _PIECES.dump_python(gang.pieces, mode="json")
    row["status"] = str(gang.status)
    row["stop_cause"] = None if gang.stop_cause is None else str(gang.stop_cause)
    return row


def _loaded_gang(row: dict[str, Any]) -> Gang:
    spec = GangSpec.model_validate_json(json.dumps(row["spec"]))
    row = {"evicted_ms": [], **row}
    plain: dict[str, Any] = {name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in _PLAIN}
    pieces = _PIECES.validate_json(json.dumps(row["pieces"]))
    return Gang(
        spec=spec,
        shape=held_shape(spec, pieces),
        pieces=pieces,
        status=GangStatus(row["status"]),
        stop_cause=None if row["stop_cause"] is None else StopCause(row["stop_cause"]),
        **plain,
    )
