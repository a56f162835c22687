"""What may be done to signatures and cosignatures, and with two logs."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

from scheduler.exchange.leaves import encode_pledge
from scheduler.ledger.bundle import read_bundle
from scheduler.ledger.keys import SignerKey
from scheduler.ledger.notes import Checkpoint, cosign, sign_checkpoint
from tests.exchange.evidence import (
    FIRST,
    PLEDGED_MS,
    WITNESS,
    Evidence,
    as_delivered,
    later,
    pledge,
    pledges,
    record_at,
    statements,
    told,
    withdrawn,
)
from tests.exchange.frauds.kinds import Fraud, forge, pair, settled
from tests.exchange.world import END_MS, SIGNER

SIZE = len(told())
ROOT = base64.b64encode(bytes(32)).decode()
STRANGER = SignerKey(SIGNER.name, bytes(32))
FALSE_WITNESS = SignerKey(WITNESS.name, bytes(32))


def signed_again(folder: Path, signer: SignerKey = SIGNER, **changes: Any) -> None:
    """The checkpoint says something else, and is signed."""
    (folder / "checkpoint").write_bytes(sign_checkpoint(replace(read_bundle(folder).stated, **changes), signer))


def of_stranger(folder: Path) -> None:
    signed_again(folder, STRANGER)
    (folder / "vkey").write_text(STRANGER.verifier.encode() + "\n", encoding="utf-8")


def not_cosigned(folder: Path) -> None:
    signed_again(folder)
    (folder / "witness").unlink()


def line_of(folder: Path, number: int, line: str) -> None:
    """Replaces a line of the checkpoint."""
    lines = (folder / "checkpoint").read_text(encoding="utf-8").split("\n")
    lines[number] = line
    (folder / "checkpoint").write_text("\n".join(lines), encoding="utf-8")


def unwitnessed(folder: Path, **changes: Any) -> str:
    """A bundle that no witness cosigned, with another checkpoint."""
    Evidence(witness=None).write(folder)
    signed_again(folder, **changes)
    return str(folder)


def cosigned_by(folder: Path, witness: SignerKey) -> None:
    note = sign_checkpoint(read_bundle(folder).stated, SIGNER)
    (folder / "checkpoint").write_bytes(cosign(note, witness, END_MS // 1_000))


def dated_back(folder: Path) -> None:
    """The instant of the cosignature is a year earlier."""
    lines = (folder / "checkpoint").read_text(encoding="utf-8").split("\n")
    name, encoded = lines[5].rsplit(" ", 1)
    content = base64.b64decode(encoded)
    at_s = int.from_bytes(content[4:12], "big") - 31_536_000
    lines[5] = f"{name} {base64.b64encode(content[:4] + at_s.to_bytes(8, 'big') + content[12:]).decode()}"
    (folder / "checkpoint").write_text("\n".join(lines), encoding="utf-8")


def witnessed_other(folder: Path) -> str:
    Evidence(leaves=told(more=[later("pos-2", 1)]), settled={}, witnessed=told()).write(folder)
    other = sign_checkpoint(Checkpoint("tenor.test/cluster-2", SIZE, bytes(32)), SIGNER)
    (folder / "cosigned").write_bytes(cosign(other, WITNESS, END_MS // 1_000))
    return str(folder)


SIGNATURES: dict[str, Fraud] = {
    "the root is changed": forge(lambda it: line_of(it, 2, ROOT), "checkpoint", "is not its key's"),
    "the signature is changed": forge(
        lambda it: line_of(
            it, 4, f"— {SIGNER.name} " + base64.b64encode(SIGNER.verifier.key_hash + bytes(64)).decode()
        ),
        "checkpoint",
        "is not its key's",
    ),
    "the checkpoint is signed by another key": forge(
        lambda it: signed_again(it, STRANGER), "checkpoint", "expected a signature of tenor.test/cluster-1+4c73b8e6"
    ),
    "the key is replaced too, but not the one that was told": forge(
        of_stranger,
        "checkpoint",
        "expected a signature of tenor.test/cluster-1",
        "--vkey",
        SIGNER.verifier.encode(),
    ),
    "the checkpoint is of another log of the same seller": forge(
        lambda it: signed_again(it, origin="tenor.test/cluster-2"),
        "checkpoint",
        "origin was tenor.test/cluster-2, expected one of tenor.test/cluster-1",
    ),
    "the checkpoint says another root and is signed": forge(
        lambda it: signed_again(it, root=bytes(32)), "witness", "expected a cosignature of tenor.test/exchange"
    ),
    "the checkpoint says another root where nobody witnessed": Fraud(
        lambda folder: [unwitnessed(folder / "bundle", root=bytes(32))], "tree", "checkpoint states the root 0000"
    ),
    "the checkpoint shrinks": settled(
        lambda: Evidence(leaves=told()[: SIZE - 1], witnessed=told()),
        "witness",
        f"the log shrank: its checkpoint has {SIZE - 1} leaves, expected {SIZE} or more, which were witnessed",
    ),
    "the log is forked after it was witnessed": settled(
        lambda: Evidence(leaves=told(more=[b"later"]), witnessed=told(record_at("pos-1", 2, estimated_gpu_ms=1))),
        "witness",
        f"the first {SIZE} leaves have the root",
    ),
    "a leaf is edited late, after it was witnessed": settled(
        lambda: Evidence(
            leaves=told(record_at("pos-3", 6, **as_delivered("pos-3", 6)), more=[later("pos-2", 1)]), witnessed=told()
        ),
        "witness",
        "which was witnessed",
    ),
    "the cosignature is by another key": forge(
        lambda it: cosigned_by(it, FALSE_WITNESS), "witness", "expected a cosignature of tenor.test/exchange+"
    ),
    "the cosignature is dated back": forge(dated_back, "witness", "is not its key's"),
    "the cosignature is left out": forge(
        not_cosigned,
        "witness",
        "is signed by tenor.test/cluster-1, expected a cosignature of tenor.test/exchange",
        "--vkey",
        WITNESS.witness.encode(),
    ),
    "the witness saw another log": Fraud(
        lambda folder: [witnessed_other(folder / "bundle")],
        "witness",
        "origin of the cosigned checkpoint was tenor.test/cluster-2, expected tenor.test/cluster-1",
    ),
}


OTHER_SELLER = SignerKey("tenor.test/cluster-2", bytes(range(3, 35)))


def seller(leaves: list[bytes]) -> Evidence:
    """A sound log of another seller."""
    return Evidence(
        leaves=leaves,
        settled={},
        signer=OTHER_SELLER,
        origin=OTHER_SELLER.name,
        vkeys=(OTHER_SELLER.verifier.encode(),),
    )


def forked() -> Evidence:
    """The same log, sound by itself, with another outcome of one record, witnessed by nobody."""
    leaves = told(record_at("pos-3", 6, **as_delivered("pos-3", 6)), more=[later("pos-2", 1, estimated_gpu_ms=3)])
    return Evidence(leaves=leaves, settled=statements(leaves), witness=None)


PAIRS: dict[str, Fraud] = {
    "the log has two histories": pair(Evidence, forked, "histories", f"the log is forked: leaf {FIRST + 26} was"),
    "a device is pledged by two sellers": pair(
        Evidence,
        lambda: seller([*pledges("borealis"), encode_pledge(pledge(9, from_ms=END_MS), END_MS)]),
        "pledged_once",
        f"is pledged twice: local/block-0/domain-0/node-1/1 of local/H100SXM from {PLEDGED_MS} (leaf 9) of "
        f"tenor.test/cluster-1, and local/block-0/domain-0/node-1/1 of local/H100SXM from {END_MS} (leaf 264) of "
        "tenor.test/cluster-2",
    ),
    "a device is pledged elsewhere a moment too early": pair(
        lambda: Evidence(leaves=[*told(), withdrawn(9, END_MS)]),
        lambda: seller([encode_pledge(pledge(9, from_ms=END_MS - 1), END_MS)]),
        "pledged_once",
        f"from {PLEDGED_MS} to {END_MS} (leaf 9) of tenor.test/cluster-1",
    ),
}
