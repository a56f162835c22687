"""What it may tell of its pools, its devices and its shortages."""

from __future__ import annotations

from scheduler.core.cluster import Level
from scheduler.core.coverage.shortage import ShortClaim, ration
from scheduler.exchange.leaves import encode_pledge, encode_pool, encode_shortage
from tests.exchange.evidence import FIRST, GPUS, PLEDGED_MS, pledge, pledges, pool_at, tampered, told, withdrawn
from tests.exchange.frauds.kinds import Fraud, lie
from tests.exchange.world import END_MS, START_MS, delivered, pooled, shortage


def of_other(*, firmness_class: int = 0, pool: str = "H100SXM@local", level: Level = Level.NODE) -> bytes:
    """A shortage that follows the rule, of a position that is not like that."""
    claim = ShortClaim(position="pos-1", firmness_class=firmness_class, lots=1, acquired_ms=5)
    certificate = ration([claim], 0, pool=pool, level=level, start_ms=START_MS)
    return encode_shortage(certificate.body.decode(), END_MS + 3_000)


def older(acquired_ms: int) -> bytes:
    """A shortage in which pos-2 came before pos-1."""
    claims = [
        ShortClaim(position="pos-1", firmness_class=0, lots=1, acquired_ms=5),
        ShortClaim(position="pos-2", firmness_class=0, lots=1, acquired_ms=acquired_ms),
    ]
    certificate = ration(claims, 1, pool="H100SXM@local", start_ms=START_MS)
    return encode_shortage(certificate.body.decode(), END_MS + 3_000)


POOLS: dict[str, Fraud] = {
    "a pool has GPUs from nowhere": lie(
        lambda: told(of_pool=pool_at(1, unsold_idle_gpu_ms=160_001)),
        "pools",
        "the parts of local/H100SXM at 1800000010000 add up to 640001, total_gpu_ms is 640000",
    ),
    "a pool says that it sold less": lie(
        lambda: told(of_pool=pool_at(1, sold_gpu_ms=479_999)),
        "pools",
        "sold_gpu_ms was 479999, its records contract 480000",
    ),
    "a GPU is delivered to two owners": lie(
        lambda: told(of_pool=pool_at(1, covered_gpu_ms=400_000, unsold_idle_gpu_ms=240_000)),
        "pools",
        "site local [1800000010000, 1800000020000): 474000 GPU-ms were delivered, the pools' certificates have 400000",
    ),
    "an interval has no certificate": lie(
        lambda: told(of_pool=lambda pool: None if pool.start_ms == START_MS else pool), "pools", "have 0 covered"
    ),
    "an interval has two certificates": lie(
        lambda: told(more=[encode_pool(pooled(6, 2), END_MS + 3_000)]),
        "pools",
        f"a second certificate after leaf {FIRST + 11}: version was 1, expected 2",
    ),
    "a certificate is written before its interval is over": lie(
        lambda: told(more=[encode_pool(pooled(6, 2), START_MS)]), "written", "expected 1800000030000 or later"
    ),
    "more GPUs are sold than are pledged": lie(
        lambda: [*pledges(gpus=GPUS - 8), *delivered()],
        "devices",
        "total_gpu_ms was 640000, expected at most 560000, as devices are pledged",
    ),
    "a withdrawn GPU goes on delivering": lie(
        lambda: told(more=[withdrawn(5, START_MS + 110_000)]),
        "devices",
        "pool local/H100SXM [1800000110000, 1800000120000): total_gpu_ms was 640000, expected at most 630000",
    ),
    "a device is pledged twice": lie(
        lambda: told(more=[encode_pledge(pledge(5, from_ms=END_MS), END_MS + 3_000)]),
        "devices",
        f"is pledged twice: to local/block-0/domain-0/node-0/5 of local/H100SXM from {PLEDGED_MS} (leaf 5), and to",
    ),
    "a device is pledged to two pools": lie(
        lambda: told(more=[encode_pledge(pledge(5, grade="A100"), END_MS + 3_000)]), "devices", "of local/A100 from"
    ),
    "a device is pledged again before its withdrawal": lie(
        lambda: told(
            more=[withdrawn(5, END_MS), encode_pledge(pledge(5, from_ms=END_MS - 1), END_MS + 3_000)],
        ),
        "devices",
        f"from {PLEDGED_MS} to {END_MS} (leaf 5), and to",
    ),
    "a device is withdrawn that nobody pledged": lie(
        lambda: told(more=[withdrawn(777, END_MS)]), "devices", "was withdrawn, expected one that is pledged"
    ),
    "a device is withdrawn before it was pledged": lie(
        lambda: told(more=[withdrawn(5, PLEDGED_MS - 1)]),
        "devices",
        f"was {PLEDGED_MS - 1}, expected {PLEDGED_MS} or later, when it was pledged",
    ),
}

ACCREDITED: dict[str, Fraud] = {
    "a certificate counts devices that nobody pledged": lie(
        lambda: told(of_pool=pool_at(1, accredited_gpus=0, pledged_gpus=GPUS + 1)),
        "accredited",
        f"pledged_gpus was {GPUS + 1}, expected {GPUS}, as the log has it",
    ),
    "a pool is accredited as if nothing could be lost": lie(
        lambda: [
            *(encode_pledge(pledge(number), PLEDGED_MS) for number in range(GPUS, GPUS + 8)),
            *told(of_pool=pool_at(1, accredited_gpus=9, pledged_gpus=GPUS + 8)),
        ],
        "accredited",
        "accredited_gpus was 9, expected at most 8, the devices pledged less those of the largest domain",
    ),
}

SHORTAGES: dict[str, Fraud] = {
    "the awards do not follow the rule": lie(
        lambda: told(more=[encode_shortage(shortage().replace('"awarded":1', '"awarded":0'), END_MS)]),
        "shortages",
        f"leaf {FIRST + 50}: the shortage certificate",
    ),
    "the order of the claims was changed": lie(
        lambda: told(more=[tampered(claims=lambda claims: claims[::-1])]), "shortages", "had pos-2, expected pos-1"
    ),
    "a cell more is said to be healthy": lie(
        lambda: told(more=[tampered(cells=lambda cells: cells + 1)]), "shortages", "pos-1 got 1 of 2, expected 2 of 2"
    ),
    "somebody who claimed gets no award": lie(
        lambda: told(more=[tampered(awards=lambda awards: awards[:1])]),
        "shortages",
        "its awards are of ['pos-1'], expected one for each claim in its order",
    ),
    "the digest is of other facts": lie(
        lambda: told(more=[tampered(digest=lambda _: "0" * 64)]), "shortages", "its digest was 0000"
    ),
    "a firm position is served as if it were not": lie(
        lambda: told(more=[of_other(firmness_class=2)]), "shortages", "firmness_class of pos-1 was 2, expected 0"
    ),
    "the shortage is of a pool that the position is not in": lie(
        lambda: told(more=[of_other(pool="A100@local")]),
        "shortages",
        "pool of pos-1 was A100@local, expected H100SXM@local",
    ),
    "the shortage is of cells that the position does not ask for": lie(
        lambda: told(more=[of_other(level=Level.GPU)]), "shortages", "level of pos-1 was GPU, expected NODE"
    ),
    "somebody is made to have come first": lie(
        lambda: told(more=[older(acquired_ms=4)]), "shortages", "acquired_ms of pos-2 was 4, expected 7 as in leaf"
    ),
}
