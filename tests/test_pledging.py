"""Devices of an inventory: pledged once, withdrawn when they move or go, in a log that the audit believes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from scheduler.core.cluster import Fleet, NodeSpec
from scheduler.core.devices import PledgeBook
from scheduler.core.errors import Damaged, InvalidValue
from scheduler.delivery import LogWriter
from scheduler.exchange.audit import audit
from scheduler.exchange.bundles import write
from scheduler.exchange.leaves import PledgeLeaf, WithdrawalLeaf, decode
from scheduler.ledger.journal import Journal
from scheduler.pledging import CURSOR, Inventory, pledge, read_inventory
from tests.exchange.world import SIGNER, STREAM

LOG = LogWriter(STREAM, SIGNER)
INVENTORY = {"node-0": ["GPU-a", "GPU-b"], "node-1": ["GPU-c", "GPU-d"], "node-9": ["GPU-z"]}


def fleet(nodes: int = 2) -> Fleet:
    return Fleet.of(tuple(NodeSpec(name=f"node-{number}", grade="H100SXM", gpus=2) for number in range(nodes)))


@pytest.fixture
def journal() -> Iterator[Journal]:
    with Journal.open(":memory:") as opened:
        yield opened


def pledged(journal: Journal, inventory: Inventory, nodes: int = 2, now_ms: int = 100, **joined_ms: int) -> int:
    names = {name.replace("_", "-"): at_ms for name, at_ms in joined_ms.items()}
    return pledge(journal, LOG, inventory, fleet(nodes), names, now_ms)


def held(journal: Journal) -> list[tuple[str, int, int | None]]:
    """(cell, from, until) of every pledge in the log, which must not contradict itself."""
    book = PledgeBook()
    for index, leaf in journal.leaves(STREAM):
        match decode(leaf):
            case PledgeLeaf(pledge=told):
                assert book.pledge(told, f"leaf {index}") == ""
            case WithdrawalLeaf(withdrawal=told_of):
                assert book.withdraw(told_of) == ""
            case other:
                raise AssertionError(other)
    spans = chain.from_iterable(book.by_device.values())
    return sorted(((each.pledge.cell, each.pledge.from_ms, each.end_ms) for each in spans), key=lambda it: it[:2])


CELL = "local/block-0/domain-0/node-{}/{}"


def test_what_joined_is_pledged_once(journal: Journal) -> None:
    assert pledged(journal, INVENTORY, node_1=90) == 4
    assert pledged(journal, INVENTORY, now_ms=200) == 0
    assert held(journal) == [
        (CELL.format(0, 0), 100, None),
        (CELL.format(0, 1), 100, None),
        (CELL.format(1, 0), 90, None),
        (CELL.format(1, 1), 90, None),
    ]
    kept = journal.checkpoint(STREAM)
    assert kept is not None
    assert kept[0] == 4


def test_a_node_that_joins_later_is_pledged_from_then_on(journal: Journal) -> None:
    assert pledged(journal, INVENTORY, nodes=1) == 2
    assert pledged(journal, INVENTORY, now_ms=200, node_1=190) == 2
    assert held(journal)[2:] == [(CELL.format(1, 0), 190, None), (CELL.format(1, 1), 190, None)]


def test_a_device_that_moves_or_goes_is_withdrawn(journal: Journal) -> None:
    pledged(journal, INVENTORY)
    assert pledged(journal, INVENTORY | {"node-1": ["GPU-c", "GPU-a"], "node-0": ["GPU-e", "GPU-b"]}, now_ms=200) == 4
    assert held(journal) == [
        (CELL.format(0, 0), 100, 200),
        (CELL.format(0, 0), 200, None),
        (CELL.format(0, 1), 100, None),
        (CELL.format(1, 0), 100, None),
        (CELL.format(1, 1), 100, 200),
        (CELL.format(1, 1), 200, None),
    ]
    assert pledged(journal, {}, now_ms=300) == 4
    assert {end_ms for _, _, end_ms in held(journal)} == {200, 300}
    assert pledged(journal, {}, now_ms=400) == 0


def test_the_audit_believes_such_a_log(journal: Journal, tmp_path: Path) -> None:
    pledged(journal, INVENTORY)
    pledged(journal, {}, now_ms=200)
    write(journal, STREAM, tmp_path / "bundle", [], {}, [SIGNER.verifier.encode()])
    report = audit(tmp_path / "bundle")
    assert report.ok, report.first_wrong
    assert next(check.examined for check in report.checks if check.name == "devices") == 8


def test_an_inventory_that_cannot_be_is_refused_and_nothing_is_pledged(journal: Journal) -> None:
    with pytest.raises(InvalidValue, match="devices of node-0 was 1, expected 2, one for each GPU"):
        pledged(journal, {"node-0": ["GPU-a"]})
    with pytest.raises(InvalidValue, match=r"was 'GPU-a', expected another device than that of .*node-0/0"):
        pledged(journal, {"node-0": ["GPU-a", "GPU-b"], "node-1": ["GPU-c", "GPU-a"]})
    assert journal.log_size(STREAM) == 0


def test_a_cursor_that_was_changed_is_damage(journal: Journal) -> None:
    journal.commit((), cursors={CURSOR: b"[{}]"})
    with pytest.raises(Damaged, match="'pledged'"):
        pledged(journal, INVENTORY)


def test_an_inventory_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    path.write_text(json.dumps(INVENTORY), encoding="utf-8")
    assert read_inventory(path) == INVENTORY
    for content in ("[]", "{", '{"node-0": "GPU-a"}', '{"node-0": [1]}'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InvalidValue, match="devices"):
            read_inventory(path)
    with pytest.raises(InvalidValue, match="a file that exists"):
        read_inventory(tmp_path / "nowhere")
