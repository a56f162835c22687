"""What every loader says about bad input: file, line, column, what it was, what was expected. One table for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from scheduler.core.errors import InvalidValue
from scheduler.traces import calendars, gavel, helios, openb, philly

PHILLY = (
    "timestamp,duration,num_gpus,gpu_time,cluster\n2017-09-04 10:30:41,10.0,8,80.0,a\n2017-09-04 10:31:00,5.0,1,5.0,a\n"
)
HELIOS = "date,vcA,vcB,total\n2020-04-01,8,16,24\n2020-04-02,16,16,32\n"
NODES = "sn,cpu_milli,memory_mib,gpu,model\nn0,1000,10,2,T4\nn1,1000,10,2,T4\n"
PODS = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
    "p0,100,10,1,500,T4|P100,LS,Running,5,9,6\n"
    "p1,100,10,0,0,,LS,Running,5,9,\n"
)
PUBLISHED = (
    "pod_list,policy,seeds,unallocated_pct_at_100,unallocated_pct_at_end,end_load_pct\n"
    "openb_pod_list_default,06-FGD,10,4.77,4.61,130\n"
)
CALENDAR = "cell,start_hour,end_hour,lots,position\nGPU,0,4,8,0\nNODE,0,4,1,1\n"
TRACE = "A3C\tpython3 main.py\t--steps\t1\t100\t6.000000\t1\n"
RATES = '{"v100": {"(\'A3C\', 1)": {"null": 1.5, "(\'LM\', 1)": [1.0, 2.0]}}}'

Load = Callable[[Path], object]
LOADERS: dict[str, tuple[Load, str]] = {
    "philly": (philly.load_jobs, PHILLY),
    "helios": (helios.load_calendar, HELIOS),
    "nodes": (openb.load_nodes, NODES),
    "pods": (openb.load_pods, PODS),
    "published": (openb.load_published, PUBLISHED),
    "calendar": (calendars.load, CALENDAR),
    "trace": (gavel.load_trace, TRACE),
    "rates": (gavel.load_throughputs, RATES),
}


class Fault(NamedTuple):
    """A loader, text to replace and its replacement, then what the error must name."""

    loader: str
    old: str
    new: str
    column: str
    line: int
    was: str
    expected: str

    def __str__(self) -> str:
        return f"{self.loader}-{self.column}-{self.new!r}"


FAULTS = [
    ("philly", "duration,", "length,", "header", 1, "timestamp,length", "a column duration"),
    ("philly", "num_gpus", "duration", "header", 1, "duration", "a column num_gpus"),
    ("philly", ",gpu_time,", ",cluster,", "header", 1, "cluster", "each column once"),
    ("philly", "2017-09-04 10:31:00", "2017-09-04", "timestamp", 3, "'2017-09-04'", "a time as"),
    ("philly", "2017-09-04 10:31:00", "2017-02-30 10:31:00", "timestamp", 3, "2017-02-30", "a time as"),
    ("philly", "2017-09-04 10:31:00", "2017-09-04T10:31:00", "timestamp", 3, "T10", "a time as"),
    ("philly", "2017-09-04 10:31:00", "0000-09-04 10:31:00", "timestamp", 3, "0000-", "1970 or later"),
    ("philly", "10.0,8", "999999999999,8", "duration", 2, "9999", "seconds, 1.."),
    ("philly", "10.0,8", "ten,8", "duration", 2, "'ten'", "seconds, 1..316224000000 ms"),
    ("philly", "10.0,8", "-10.0,8", "duration", 2, "'-10.0'", "seconds, 1..316224000000 ms"),
    ("philly", "10.0,8", "0,8", "duration", 2, "'0'", "seconds, 1..316224000000 ms"),
    ("philly", "10.0,8", "nan,8", "duration", 2, "'nan'", "seconds, 1..316224000000 ms"),
    ("philly", "10.0,8", "1e9,8", "duration", 2, "'1e9'", "seconds, 1..316224000000 ms"),
    ("philly", ",8,80.0", ",8.5,80.0", "num_gpus", 2, "'8.5'", "1..100000"),
    ("philly", ",8,80.0", ",-8,80.0", "num_gpus", 2, "'-8'", "1..100000"),
    ("philly", ",8,80.0", ",0,80.0", "num_gpus", 2, "'0'", "1..100000"),
    ("philly", ",8,80.0", ",8_0,80.0", "num_gpus", 2, "'8_0'", "1..100000"),
    ("philly", ",8,80.0", ",99999999999999999999,80.0", "num_gpus", 2, "'99999", "1..100000"),
    ("philly", "80.0", "99.0", "gpu_time", 2, "'99.0'", "duration times num_gpus"),
    ("philly", ",80.0,a", ",80.0,", "cluster", 2, "''", "a name"),
    ("philly", ",80.0,a", ",80.0,a,b", "fields", 2, "6", "5: timestamp"),
    ("philly", "5.0,1,5.0,a\n", "5.0,1", "fields", 3, "3", "torn"),
    ("philly", "5.0,a\n", "5.0,b", "cluster", 3, "'b'", "torn"),
    ("philly", "80.0,a\n", "80.0,a\n\n", "fields", 3, "0", "5: timestamp"),
    ("philly", "80.0,a", '80.0,"a', "quoting", 3, "unexpected end", "plain fields"),
    ("helios", ",total", ",sum", "header", 1, "sum", "a column total"),
    ("helios", "date,", "day,", "header", 1, "day", "a column date"),
    ("helios", "8,16,24", "8,15,23", "vcB", 2, "'15'", "a multiple of 8"),
    ("helios", "8,16,24", "8,-16,24", "vcB", 2, "'-16'", "0.."),
    ("helios", "8,16,24", "8,x,24", "vcB", 2, "'x'", "0.."),
    ("helios", "8,16,24", "8,16,32", "total", 2, "'32'", "the sum"),
    ("helios", "2020-04-02", "2020-04-03", "date", 3, "2020-04-03", "the day after 2020-04-01"),
    ("helios", "2020-04-02", "2020-04-01", "date", 3, "2020-04-01", "each day once"),
    ("helios", "2020-04-02", "02/04/2020", "date", 3, "02/04/2020", "a date as"),
    ("helios", "16,16,32\n", "16,16,3", "total", 3, "'3'", "the sum"),
    ("nodes", "model\n", "kind\n", "header", 1, "kind", "a column model"),
    ("nodes", "n1,1000", "n1,1e3", "cpu_milli", 3, "'1e3'", "an integer of 0 or more"),
    ("nodes", "n1,1000", "n0,1000", "sn", 3, "'n0'", "no line before"),
    ("nodes", "2,T4\nn1,1000,10,2,T4\n", "2,T4\nn1,1000,10,2,T", "model", 3, "'T'", "torn"),
    ("pods", "1,500", "1,1500", "gpu_milli", 2, "'1500'", "0..1000"),
    ("pods", "1,500", "2,500", "gpu_milli", 2, "'500'", "1000 where num_gpu is over 1"),
    ("pods", "0,0,,", "0,500,,", "gpu_milli", 3, "'500'", "0 exactly where num_gpu is 0"),
    ("pods", "T4|P100", "T4||P100", "gpu_spec", 2, "'T4||P100'", "models as"),
    ("pods", "5,9,6", "5,4,6", "deletion_time", 2, "'4'", "no earlier"),
    ("pods", "5,9,6", "5,9,six", "scheduled_time", 2, "'six'", "seconds"),
    ("pods", "5,9,\n", "5,9,1", "scheduled_time", 3, "'1'", "torn"),
    ("published", "4.77", "104.77", "unallocated_pct_at_100", 2, "'104.77'", "0..100"),
    ("published", "4.61", "NaN", "unallocated_pct_at_end", 2, "'NaN'", "0..100"),
    ("published", "4.61", "much", "unallocated_pct_at_end", 2, "'much'", "0..100"),
    ("calendar", "NODE", "RACK", "cell", 3, "'RACK'", "NVLINK_DOMAIN"),
    ("calendar", "NODE,0,4", "NODE,4,4", "end_hour", 3, "'4'", "after start_hour"),
    ("calendar", "NODE,0,4", "NODE,-1,4", "start_hour", 3, "'-1'", "0.."),
    ("calendar", "4,1,1", "4,0,1", "lots", 3, "'0'", "1 or more"),
    ("calendar", "4,1,1\n", "4,1,", "position", 3, "''", "torn"),
    ("trace", "\t100\t", "\tmany\t", "total_steps", 1, "'many'", "1 or more"),
    ("trace", "\t100\t", "\t", "fields", 1, "6", "7: job_type"),
    ("trace", "6.000000\t1", "-6.0\t1", "arrival_s", 1, "'-6.0'", "0 or more"),
    ("trace", "\t1\t100", "\t2\t100", "needs_data", 1, "'2'", "0..1"),
]


@pytest.mark.parametrize("fault", [Fault(*row) for row in FAULTS], ids=str)
def test_a_fault_names_file_line_column_was_and_expected(written: Path, fault: Fault) -> None:
    load, text = LOADERS[fault.loader]
    assert fault.old in text
    written.write_text(text.replace(fault.old, fault.new, 1))
    with pytest.raises(InvalidValue) as caught:
        load(written)
    error = caught.value
    assert (error.what, error.which) == (fault.column, f"line {fault.line} of {written}")
    assert str(error) == f"{error.what} of {error.which} was {error.was!r}, expected {error.expected}"
    assert fault.was in repr(error.was)
    assert fault.expected in error.expected


@pytest.mark.parametrize("loader", LOADERS)
def test_the_text_that_the_faults_start_from_loads(written: Path, loader: str) -> None:
    load, text = LOADERS[loader]
    written.write_text(text)
    load(written)
    written.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    load(written)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (b"", "contents of {path} was 'an empty file', expected a header"),
        (b"\n\n", "contents of {path} was 'an empty file', expected a header"),
        (b"a,b\n\xffx\n", "encoding of line 2 of {path} was 'byte 0xff', expected UTF-8"),
        ("a,b\n".encode("utf-16"), "encoding of line 1 of {path} was 'byte 0xff', expected UTF-8"),
        (b"a,b\n1,\x00\n", "encoding of line 2 of {path} was 'byte 0x00', expected UTF-8"),
        (None, "trace file of {path} was 'No such file or directory', expected a readable file"),
    ],
)
def test_a_file_that_is_no_text_says_so(written: Path, loader: str, contents: bytes | None, says: str) -> None:
    if contents is not None:
        written.write_bytes(contents)
    with pytest.raises(InvalidValue) as caught:
        LOADERS[loader][0](written)
    assert str(caught.value).startswith(says.format(path=written))


@pytest.mark.parametrize("loader", sorted(set(LOADERS) - {"trace", "rates"}))
def test_a_header_alone_is_not_a_trace(written: Path, loader: str) -> None:
    load, text = LOADERS[loader]
    written.write_text(text.split("\n", 1)[0] + "\n")
    with pytest.raises(InvalidValue, match="expected at least one row"):
        load(written)


@pytest.mark.parametrize(("loader", "known"), [(name, name in {"philly", "helios", "nodes"}) for name in LOADERS])
def test_a_last_line_without_line_break_counts_only_where_it_is_known_to_be_whole(
    written: Path, loader: str, *, known: bool
) -> None:
    load, text = LOADERS[loader]
    written.write_text(text.removesuffix("\n"))
    if known or loader == "rates":
        load(written)
    else:
        with pytest.raises(InvalidValue, match="torn"):
            load(written)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "JSON of line 1 column 2"),
        ("[]", "the document of .* was 'list', expected an object"),
        ('{"v100": []}', "v100 of .* was 'list', expected an object"),
        ('{"v100": {"A3C": {}}}', "v100/A3C of .* was 'A3C', expected a job as"),
        ('{"v100": {"(\'A3C\', 0)": {}}}', "expected a job as"),
        ('{"v100": {"(\'A3C\', 1)": {"null": -1}}}', "/null of .* was -1, expected steps a second"),
        ('{"v100": {"(\'A3C\', 1)": {"null": NaN}}}', "/null of .* was nan, expected steps a second"),
        ('{"v100": {"(\'A3C\', 1)": {"null": true}}}', "/null of .* was True, expected steps a second"),
        ('{"v100": {"(\'A3C\', 1)": {"(\'LM\', 1)": [1.0]}}}', "expected two rates"),
        ("[" * 100_000, "too deeply nested"),
    ],
)
def test_rates_that_are_none_name_their_entry(written: Path, text: str, says: str) -> None:
    written.write_text(text)
    with pytest.raises(InvalidValue, match=says):
        gavel.load_throughputs(written)


def test_rows_in_any_order_are_sorted(written: Path) -> None:
    header, first, second = HELIOS.splitlines()
    written.write_text(f"{header}\n{second}\n{first}\n")
    assert helios.load_calendar(written).gpus.tolist() == [[8, 16], [16, 16]]
    header, first, second = PHILLY.splitlines()
    written.write_text(f"{header}\n{second}\n{first}\n")
    jobs = philly.load_jobs(written)
    assert jobs.duration_ms.tolist() == [10_000, 5_000]
    assert jobs.row.tolist() == [1, 0]


def test_a_folder_without_traces_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"traces of .* was 0, expected at least one file \*\.trace"):
        gavel.load_traces(tmp_path)
