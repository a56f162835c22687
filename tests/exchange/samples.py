"""Records, terms and certificates that the tests of the exchange share."""

from __future__ import annotations

from hypothesis import strategies as st

from scheduler.core.causes import Cause
from scheduler.core.metering.records import MeterRecord, PoolRecord, Quality, RecordStatus

names = st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?\Z")
quantities = st.integers(0, 2**63 - 1)
instants = st.integers(0, 2**40)


def record(index: int = 0, position: str = "pos-1", **fields: object) -> MeterRecord:
    """A sound record of 8 GPUs for the interval number `index` of 10 s; other fields as given."""
    content: dict[str, object] = {
        "position": position,
        "instrument": "H100.BASE@1",
        "start_ms": index * 10_000,
        "end_ms": (index + 1) * 10_000,
        "contracted_gpu_ms": 80_000,
        "used_gpu_ms": 50_000,
        "available_unused_gpu_ms": 20_000,
        "out_forced_gpu_ms": 10_000,
        "losses": ((Cause.NODE_LOST, 10_000),),
        "par_gpu_ms": 70_000,
        "measured_mean_ppm": 990_000,
        "measured_min_ppm": 980_000,
        "suite": "matmul.v1",
    }
    return MeterRecord.model_validate(content | fields)


def pool(index: int = 0) -> PoolRecord:
    """A sound certificate of a pool of 16 GPUs for an interval of 10 s."""
    return PoolRecord(
        grade="H100SXM",
        site="local",
        start_ms=index * 10_000,
        end_ms=(index + 1) * 10_000,
        total_gpu_ms=160_000,
        sold_gpu_ms=80_000,
        covered_gpu_ms=80_000,
        unsold_used_gpu_ms=10_000,
        unsold_idle_gpu_ms=60_000,
        unsold_unhealthy_gpu_ms=10_000,
        unknown_gpu_ms=0,
    )


@st.composite
def records(draw: st.DrawFn) -> MeterRecord:
    """Any record that the model admits, sound or not."""
    chosen: dict[str, object] = {"position": draw(names), "instrument": draw(names)}
    for name, field in MeterRecord.model_fields.items():
        if name.endswith("_gpu_ms") or name.startswith("measured_"):
            chosen[name] = draw(quantities)
        elif field.is_required() and name not in chosen:
            chosen[name] = draw(instants) + 1
    return MeterRecord.model_validate(
        chosen
        | {
            "version": draw(st.integers(1, 2**32 - 1)),
            "supersedes": draw(st.none() | st.integers(1, 2**32 - 1)),
            "status": draw(st.sampled_from(RecordStatus)),
            "quality": draw(st.sampled_from(Quality)),
            "losses": tuple(draw(st.lists(st.tuples(st.sampled_from(Cause), quantities), max_size=4))),
            "suite": draw(st.text(max_size=40)),
        }
    )


@st.composite
def pools(draw: st.DrawFn) -> PoolRecord:
    """Any pool certificate that the model admits, sound or not."""
    chosen: dict[str, object] = {"grade": draw(names), "site": draw(names)}
    for name in PoolRecord.model_fields:
        if name.endswith("_gpu_ms"):
            chosen[name] = draw(quantities)
    chosen["version"] = draw(st.integers(1, 2**32 - 1))
    return PoolRecord.model_validate(chosen | {"start_ms": draw(instants), "end_ms": draw(instants) + 1})
