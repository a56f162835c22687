"""What may be done to the probes of devices, by a seller, or by an exchange that helps one."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from scheduler.core.device_probes import Answer, DeviceProbe, Outcome, commitment_of
from scheduler.core.probe_work import rows_of, seed_of
from scheduler.exchange.probe_leaves import encode_probe
from scheduler.ledger.keys import SignerKey
from tests.exchange.evidence import PLEDGED_MS, WITNESS, pledge, told
from tests.exchange.frauds.kinds import Fraud, lie
from tests.exchange.world import END_MS, SIGNER

SIZE, PRODUCTS = 16, 8
CALLED_MS = PLEDGED_MS + 1_000
STRANGER = SignerKey("tenor.exchange/other", bytes(32))
AT = len(told())


@lru_cache
def answer_of(device: str, nonce: bytes) -> Answer:
    """What a device has to answer."""
    seed = seed_of(nonce, bytes.fromhex(device), SIZE, PRODUCTS)
    return Answer.of(rows_of(seed, SIZE, PRODUCTS, range(SIZE)).astype("<u2").tobytes(), SIZE)


def probed(
    number: int = 5,
    *,
    name: str = "probe-1",
    nonce: int = 7,
    by: int | None = None,
    key: SignerKey = WITNESS,
    **changes: Any,
) -> bytes:
    """The leaf of a probe of a GPU that passed; answered by another GPU where `by` says so."""
    device, drawn = pledge(number).device, bytes([nonce]) * 32
    answer = answer_of(device if by is None else pledge(by).device, drawn)
    content: dict[str, Any] = {
        "id": name,
        "device": device,
        "suite": "nonce-matmul-v1",
        "size": SIZE,
        "products": PRODUCTS,
    }
    content |= {"commitment": commitment_of(drawn), "called_ms": CALLED_MS, "limit_ms": 3_000, "nonce": drawn.hex()}
    content |= {"revealed_ms": CALLED_MS + 10, "answered_ms": CALLED_MS + 900, "root": answer.root.hex()}
    content |= {"rows": answer.opened([1, 4, 9, 12]), "outcome": Outcome.PASSED, "exchange": key.witness.encode()}
    probe = DeviceProbe.model_validate(content | changes)
    signature = changes.get("signature", key.sign_bytes(probe.signed_bytes).hex())
    return encode_probe(DeviceProbe.model_validate(dict(probe) | {"signature": signature}), END_MS + 3_000)


HONEST = (
    probed(),
    probed(name="probe-2", nonce=8, outcome=Outcome.WRONG, by=6, reason="the answer is that of another device"),
    probed(
        id="probe-3",
        nonce=9,
        root="",
        rows=(),
        answered_ms=0,
        outcome=Outcome.DECLINED,
        reason="gave_way",
    ),
)
"""A device that passed, one that was found out, and one that gave way."""

PROBES: dict[str, Fraud] = {
    "another GPU computes for the one that was called": lie(
        lambda: told(more=[probed(by=6)]), "probes", "row 1 is not what this device computes from this nonce"
    ),
    "an answer is there before its nonce": lie(
        lambda: told(more=[probed(answered_ms=CALLED_MS + 9)]),
        "probes",
        f"probe-1 of device {pledge(5).device[:16]}: answered at {CALLED_MS + 9}, before its nonce was revealed",
    ),
    "an answer is replayed": lie(
        lambda: told(more=[probed(), probed(name="probe-2")]), "probes", f"its nonce was used by leaf {AT} before"
    ),
    "a probe is told of twice": lie(
        lambda: told(more=[probed(), probed()]), "probes", f"its id was used by leaf {AT} before"
    ),
    "a late answer passes": lie(
        lambda: told(more=[probed(answered_ms=CALLED_MS + 3_011)]),
        "probes",
        "it passed after 3001 ms, expected an answer within 3000",
    ),
    "the nonce was chosen afterwards": lie(
        lambda: told(more=[probed(commitment=commitment_of(b"other"))]),
        "probes",
        "its nonce is not the one that was committed to",
    ),
    "only some rows were computed": lie(
        lambda: told(more=[probed(rows=answer_of(pledge(5).device, bytes([7]) * 32).opened([1, 4, 9]))]),
        "probes",
        "3 rows were opened, expected 4 of 16",
    ),
    "a device passes that nobody pledged": lie(
        lambda: told(more=[probed(3_000)]), "probes", f"called at {CALLED_MS}, when this log did not pledge the device"
    ),
    "the seller signs its own probes": lie(
        lambda: told(more=[probed(key=SIGNER)]), "probes", f"signed by {SIGNER.name}, expected {WITNESS.name}"
    ),
    "another exchange signs a probe": lie(
        lambda: told(more=[probed(key=STRANGER)]), "probes", f"signed by {STRANGER.name}, expected {WITNESS.name}"
    ),
    "a failure becomes a success": lie(
        lambda: told(more=[probed(signature="00" * 64)]), "probes", f"its signature is not that of {WITNESS.name}"
    ),
}
