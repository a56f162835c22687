"""Which devices a log pledges: those of an inventory, for the nodes that joined; what changed since, and nothing twice.

The inventory is a JSON file of the nodes' device UUIDs, by GPU: `{"node-0": ["GPU-5b1f…", …]}`. Leaves, and what they
come to, are one transaction with a cursor of the journal, so that a crash leaves both or neither.

Laws: a device is pledged once while it stays where it is; one that moves to another cell, or is no longer named, is
withdrawn at that instant; a device is named under one node only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from scheduler.core.cluster import Fleet, NodeSpec
from scheduler.core.devices import DevicePledge, DeviceWithdrawal, device_hash
from scheduler.core.errors import Damaged, InvalidValue, Unavailable
from scheduler.core.models import canonical_bytes
from scheduler.delivery import LogWriter
from scheduler.exchange.leaves import encode_pledge, encode_withdrawal
from scheduler.ledger.journal import Journal

CURSOR = "pledged"

Inventory = Mapping[str, Sequence[str]]
"""The device UUIDs of nodes, by GPU."""

_INVENTORY = TypeAdapter(dict[str, list[str]])
_PLEDGES = TypeAdapter(list[DevicePledge])


def read_inventory(path: Path) -> Inventory:
    """The inventory in a file. Raises InvalidValue for one that is none, Unavailable where it cannot be read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InvalidValue("devices", "the settings", str(path), "a file that exists") from None
    except OSError as error:
        raise Unavailable(f"the devices in {path} could not be read: {error.strerror}") from error
    try:
        return _INVENTORY.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidValue("devices", str(path), first["msg"], 'JSON like {"node-0": ["GPU-…"]}') from error


def pledge(
    journal: Journal, log: LogWriter, inventory: Inventory, fleet: Fleet, joined_ms: Mapping[str, int], now_ms: int
) -> int:
    """Pledges what the inventory names and the log has not pledged yet, withdraws what it no longer names, durably and
    under a new checkpoint; gives the number of leaves. `joined_ms`: of nodes that joined just now; others pledge from
    `now_ms` on.

    Nobody else may append to the log meanwhile. Raises InvalidValue for a node with another number of GPUs, or a device
    named twice; Damaged where the cursor is not what was written.
    """
    wanted = _wanted(inventory, fleet, joined_ms, now_ms)
    pledged = {each.device: each for each in _pledged(journal)}
    gone = [each for device, each in pledged.items() if not _same(each, wanted.get(device))]
    new = [each for device, each in wanted.items() if not _same(each, pledged.get(device))]
    if not gone and not new:
        return 0
    withdrawals = [DeviceWithdrawal(device=each.device, from_ms=max(now_ms, each.from_ms)) for each in gone]
    moved = {each.device: each.from_ms for each in withdrawals}
    new = [_pledged_from(each, max(each.from_ms, moved.get(each.device, 0))) for each in new]
    left = {device: each for device, each in pledged.items() if device not in moved}
    left |= {each.device: each for each in new}
    leaves = [encode_withdrawal(each, now_ms) for each in withdrawals] + [encode_pledge(each, now_ms) for each in new]
    kept = canonical_bytes([left[device].model_dump(mode="json") for device in sorted(left)])
    log.commit(journal, (), leaves, {CURSOR: kept})
    log.checkpoint(journal)
    return len(leaves)


class PledgedGpus:
    """How many devices the log pledges to each pool; read again only when that has changed."""

    def __init__(self) -> None:
        self._stored: bytes | None = None
        self._since_ms: dict[str, list[int]] = {}

    def at(self, journal: Journal, at_ms: int) -> dict[str, int]:
        """By pool (`site/grade`), those pledged from an instant or before. Raises Damaged."""
        stored = journal.cursor(CURSOR)
        if stored != self._stored:
            since_ms = defaultdict[str, list[int]](list)
            for each in _pledged(journal):
                since_ms[each.pool].append(each.from_ms)
            self._stored, self._since_ms = stored, {pool: sorted(told) for pool, told in since_ms.items()}
        return {pool: bisect_right(told, at_ms) for pool, told in self._since_ms.items()}


def _pledged(journal: Journal) -> list[DevicePledge]:
    stored = journal.cursor(CURSOR)
    try:
        return [] if stored is None else _PLEDGES.validate_json(stored)
    except ValidationError as error:
        raise Damaged(f"the journal's cursor {CURSOR!r} is not what was written") from error


def _wanted(inventory: Inventory, fleet: Fleet, joined_ms: Mapping[str, int], now_ms: int) -> dict[str, DevicePledge]:
    """The pledges of the inventory's nodes that are in the fleet, by device, in its order."""
    found: dict[str, DevicePledge] = {}
    for node in fleet.nodes:
        devices = inventory.get(node.name)
        if devices is None:
            continue
        if len(devices) != node.gpus:
            raise InvalidValue("devices", node.name, len(devices), f"{node.gpus}, one for each GPU")
        for gpu, uuid in enumerate(devices):
            made = _pledge_of(node, gpu, uuid, joined_ms.get(node.name, now_ms))
            other = found.setdefault(made.device, made)
            if other is not made:
                raise InvalidValue("devices", made.cell, uuid, f"another device than that of {other.cell}")
    return found


def _pledge_of(node: NodeSpec, gpu: int, uuid: str, from_ms: int) -> DevicePledge:
    cell = f"{node.site}/{node.block}/{node.domain}/{node.name}/{gpu}"
    return DevicePledge(device=device_hash(uuid), grade=node.grade, site=node.site, cell=cell, from_ms=from_ms)


def _pledged_from(pledge: DevicePledge, from_ms: int) -> DevicePledge:
    return DevicePledge.model_validate(dict(pledge) | {"from_ms": from_ms})


def _same(one: DevicePledge, other: DevicePledge | None) -> bool:
    return other is not None and (one.grade, one.site, one.cell) == (other.grade, other.site, other.cell)
