"""Devices that logs pledge, across all logs that the exchange takes in: one device backs one log at a time.

A device is free to be pledged from the withdrawal on that its last log wrote. A pledge before that is kept in the log
as evidence and rejected, whichever log it comes in: the exchange believes whoever was first.
"""

from __future__ import annotations

from scheduler.core.devices import DevicePledge, DeviceWithdrawal
from scheduler.exchange.checks import Reason, Rejected
from scheduler.exchange.leaves import PledgeLeaf, WithdrawalLeaf
from scheduler.exchange.reference.database import Database


class Devices:
    """See the module. Call inside the transaction of the leaves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def noted(self, stream: int, index: int, leaf: PledgeLeaf | WithdrawalLeaf) -> Rejected | None:
        """Takes a leaf of the stream with that number in; why it is not believed, or None."""
        if isinstance(leaf, PledgeLeaf):
            return self._pledged(stream, index, leaf.pledge)
        return self._withdrawn(stream, leaf.withdrawal)

    def _pledged(self, stream: int, index: int, pledge: DevicePledge) -> Rejected | None:
        device = bytes.fromhex(pledge.device)
        query = (
            "SELECT name, device.leaf, from_ms, until_ms FROM device"
            " JOIN stream ON stream.number = device.stream WHERE device = ?"
        )
        row = self._database.one(query, device)
        if row is not None and (row[3] is None or pledge.from_ms < row[3]):
            until = "and is not withdrawn" if row[3] is None else f"until {row[3]}"
            held = f"pledged by leaf {row[1]} of stream {row[0]} from {row[2]} {until}"
            return Rejected(Reason.PLEDGED_TWICE, f"device {pledge.device[:16]} from {pledge.from_ms}: it is {held}")
        self._database.write(
            "INSERT OR REPLACE INTO device VALUES (?, ?, ?, ?, NULL)", device, stream, index, pledge.from_ms
        )
        return None

    def _withdrawn(self, stream: int, withdrawal: DeviceWithdrawal) -> Rejected | None:
        device = bytes.fromhex(withdrawal.device)
        query = "SELECT from_ms FROM device WHERE device = ? AND stream = ? AND until_ms IS NULL"
        row = self._database.one(query, device, stream)
        if row is None or withdrawal.from_ms < row[0]:
            since = "this stream has not pledged it" if row is None else f"it is pledged from {row[0]}"
            return Rejected(Reason.NOT_PLEDGED, f"device {withdrawal.device[:16]} at {withdrawal.from_ms}: {since}")
        self._database.write("UPDATE device SET until_ms = ? WHERE device = ?", withdrawal.from_ms, device)
        return None
