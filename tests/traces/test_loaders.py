"""Every loader on a generated folder, always, and on the published files, where somebody has them."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from scheduler.core.cluster import Level
from scheduler.core.errors import InvalidValue
from scheduler.core.quantities import MS_PER_DAY
from scheduler.traces import calendars, gavel, helios, openb, philly
from scheduler.traces.dates import day_start_ms
from scheduler.traces.folder import OPENB_POD_LISTS, TraceFolder
from scheduler.traces.generate import HELIOS_FROM, PHILLY_FROM
from tests.traces.conftest import DAYS, JOBS, NODES, TENANTS


def test_a_generated_calendar_loads_with_its_peak(generated: TraceFolder) -> None:
    calendar = helios.load_calendar(generated.helios_calendar)
    assert calendar.gpus.shape == (DAYS, TENANTS)
    assert calendar.first_day == HELIOS_FROM
    assert calendar.peak_gpus == NODES * 8
    assert not calendar.gpus.flags.writeable


def test_a_calendar_is_sliced_by_date(generated: TraceFolder) -> None:
    calendar = helios.load_calendar(generated.helios_calendar)
    two = calendar.slice(date(2020, 4, 3), 2)
    assert two.gpus.tolist() == calendar.gpus[2:4].tolist()
    assert (two.first_day, two.last_day) == (date(2020, 4, 3), date(2020, 4, 4))
    for from_date, days in ((date(2020, 3, 31), 1), (date(2020, 4, 6), 2), (date(2020, 4, 1), 0)):
        with pytest.raises(InvalidValue, match=r"expected days within 2020-04-01\.\.2020-04-06"):
            calendar.slice(from_date, days)


def test_generated_jobs_load_sorted_and_sealed(generated: TraceFolder) -> None:
    jobs = philly.load_jobs(generated.philly_jobs)
    assert len(jobs) == JOBS
    assert (jobs.first_day - PHILLY_FROM).days == 0
    assert (jobs.last_day - jobs.first_day).days == DAYS - 1
    assert bool((np.diff(jobs.submitted_ms) >= 0).all())
    assert not jobs.gpus.flags.writeable


def test_slices_of_jobs_tile_the_trace(generated: TraceFolder) -> None:
    jobs = philly.load_jobs(generated.philly_jobs)
    days = [jobs.slice(date(2017, 10, 2 + i), 1) for i in range(DAYS)]
    assert [row for day in days for row in day.row.tolist()] == jobs.row.tolist()


def test_jobs_running_at_the_start_bring_what_is_left_of_them(generated: TraceFolder) -> None:
    jobs = philly.load_jobs(generated.philly_jobs)
    from_date = date(2017, 10, 4)
    start_ms = day_start_ms(from_date)
    plain, running = jobs.slice(from_date, 1), jobs.slice(from_date, 1, running_at_start=True)
    carried = [i for i in range(len(running)) if running.row[i] not in set(plain.row.tolist())]
    assert carried, "the generated trace has a job over midnight"
    ends_ms = dict(zip(jobs.row.tolist(), (jobs.submitted_ms + jobs.duration_ms).tolist(), strict=True))
    for i in carried:
        assert running.submitted_ms[i] == start_ms
        assert running.submitted_ms[i] + running.duration_ms[i] == ends_ms[int(running.row[i])]


def test_generated_pods_load_and_say_which_models_they_may_use(generated: TraceFolder) -> None:
    nodes = openb.load_nodes(generated.openb_nodes)
    assert len(nodes) == NODES
    for name in OPENB_POD_LISTS:
        pods = openb.load_pods(generated.openb_pods(name))
        allowed = pods.allowed(nodes.models)
        assert allowed.shape == (len(pods), len(nodes.models))
        assert (pods.times is None) == (name == "multigpu30")
        restricted = ~allowed.all(axis=1)
        assert bool(restricted.any()) == (name == "gpuspec10")
        for i in np.flatnonzero(restricted).tolist():
            assert [m for m, may in zip(nodes.models, allowed[i], strict=True) if may] == ["T4", "V100M32"]
        if pods.times is not None:
            assert bool(pods.times.was_scheduled.any())
            assert not bool(pods.times.was_scheduled.all())


def test_generated_rates_are_found_by_class_and_job(generated: TraceFolder) -> None:
    rates = gavel.load_throughputs(generated.gavel_throughputs)
    assert len(rates.gpu_classes) == 6
    alone = rates.alone("v100", "A3C", 1)
    assert alone is not None
    assert alone > 0
    assert rates.alone("v100", "A3C", 2) is None
    assert rates.alone("h100", "A3C", 1) is None
    assert len(rates.colocations) == 6 * 3 * 3
    pairs = rates.colocations
    at = [rates.jobs.index(("A3C", 1)), rates.gpu_classes.index("v100")]
    own = pairs.own[(pairs.job == at[0]) & (pairs.other == at[0]) & (pairs.gpu_class == at[1])]
    assert own.tolist() == [round(alone * 0.6, 3)]


def test_generated_traces_load_one_a_tenant(generated: TraceFolder) -> None:
    traces = gavel.load_traces(generated.gavel_traces)
    assert len(traces) == TENANTS
    assert sum(len(trace) for trace in traces) == JOBS // TENANTS * TENANTS
    assert all(bool((np.diff(trace.arrival_ms) >= 0).all()) for trace in traces)


def test_generated_calendars_load_with_and_without_positions(generated: TraceFolder) -> None:
    plain = calendars.load(generated.calendar(f"{NODES * 8}_carved_90"))
    numbered = calendars.load(generated.calendar(f"{NODES * 8}_{NODES}_90"))
    assert plain.position is None
    assert numbered.position is not None
    assert numbered.position.tolist() == list(range(NODES))
    assert set(plain.level.tolist()) == {Level.NODE}


def test_published_helios(published: TraceFolder) -> None:
    calendar = helios.load_calendar(published.require("helios/venus_cluster_gpu_number.csv"))
    assert calendar.gpus.shape == (181, 25)
    assert calendar.last_day == date(2020, 9, 28)
    totals = calendar.gpus.sum(axis=1)
    assert (int(totals.min()), int(totals.max())) == (968, 1264)


def test_published_philly(published: TraceFolder) -> None:
    jobs = philly.load_jobs(published.require("philly/jobs.csv"))
    assert (len(jobs), len(jobs.tenants)) == (64_483, 13)
    assert int(jobs.submitted_ms[0]) == day_start_ms(date(2017, 9, 4)) + 37_841_000
    assert (int(jobs.gpus.min()), int(jobs.gpus.max())) == (1, 32)
    assert int((jobs.gpus * jobs.duration_ms).sum()) == 2_788_521_197_000


def test_published_openb(published: TraceFolder) -> None:
    nodes = openb.load_nodes(published.require("openb/openb_node_list_gpu_node.csv"))
    assert (len(nodes), int(nodes.gpus.sum())) == (1213, 6212)
    counts = {name: len(openb.load_pods(published.openb_pods(name))) for name in OPENB_POD_LISTS}
    assert counts == {"default": 8152, "cpu100": 7853, "gpushare40": 8152, "multigpu30": 8508, "gpuspec10": 8152}
    gpuspec = openb.load_pods(published.openb_pods("gpuspec10"))
    assert int((~gpuspec.allowed(nodes.models).all(axis=1)).sum()) == 732
    results = {(each.pod_list, each.policy): each for each in openb.load_published(published.openb_published)}
    assert len(results) == 30
    assert results["default", "06-FGD"].unallocated_at_100_ppm == 47_700


def test_published_gavel(published: TraceFolder) -> None:
    rates = gavel.load_throughputs(published.gavel_throughputs)
    assert rates.measured.sum(axis=1).tolist() == [83, 77, 83, 83, 83, 83]
    assert rates.alone("k80", "ResNet-18 (batch size 16)", 1) == 4.795294551566172
    traces = gavel.load_traces(published.gavel_traces)
    assert (len(traces), sum(map(len, traces))) == (15, 15_264)


@pytest.mark.parametrize("name", ["1024_carved_90", "1024_counted_100", "100352_20000_97"])
def test_published_calendars(published: TraceFolder, name: str) -> None:
    calendar = calendars.load(published.calendar(name))
    assert int(calendar.end_hour.max()) == 8760
    assert (calendar.position is not None) == name.startswith("100352")
    assert len(calendar) > 3000


def test_a_day_is_a_day() -> None:
    assert day_start_ms(date(1970, 1, 2)) == MS_PER_DAY
