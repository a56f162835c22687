"""Results as others read them: JSON for programs, JUnit XML for whatever runs tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from scheduler.core.errors import Unavailable
from scheduler.exchange.conformance.suite import Result, Status


def counts(results: Sequence[Result]) -> dict[str, int]:
    """How many came to what."""
    found = Counter(result.status for result in results)
    return {status.value.lower(): found[status] for status in Status}


def document(target: str, results: Sequence[Result], *, complete: bool) -> dict[str, Any]:
    """The whole report as plain data. `complete`: whether nobody stopped it."""
    return {
        "target": target,
        "complete": complete,
        "counts": counts(results),
        "results": [
            {
                "name": result.check.name,
                "area": result.check.area,
                "rule": result.check.rule,
                "status": result.status.value,
                "expected": result.check.expected,
                "seen": result.seen,
                "took_ms": result.took_ms,
            }
            for result in results
        ],
    }


def write_junit(path: Path, target: str, results: Sequence[Result]) -> None:
    """Writes JUnit XML. Raises Unavailable where the file cannot be written."""
    found = counts(results)
    attributes = {"tests": str(len(results)), "failures": str(found["fail"]), "skipped": str(found["skipped"])}
    root = ET.Element("testsuites", attributes)
    for area in dict.fromkeys(result.check.area for result in results):
        mine = [result for result in results if result.check.area == area]
        of_area = counts(mine)
        suite = ET.SubElement(
            root,
            "testsuite",
            {
                "name": f"tenor.exchange.v1.{area}",
                "hostname": target,
                "tests": str(len(mine)),
                "failures": str(of_area["fail"]),
                "skipped": str(of_area["skipped"]),
            },
        )
        for result in mine:
            _case(suite, result)
    try:
        ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise Unavailable(f"the report {path} could not be written: {error.strerror}") from error


def _case(suite: ET.Element, result: Result) -> None:
    seconds = f"{result.took_ms // 1_000}.{result.took_ms % 1_000:03d}"
    check = result.check
    case = ET.SubElement(suite, "testcase", {"name": check.name, "classname": check.area, "time": seconds})
    seen = "".join(letter if letter.isprintable() else "?" for letter in result.seen)
    match result.status:
        case Status.FAIL:
            failure = ET.SubElement(case, "failure", {"message": seen[:300]})
            failure.text = f"rule: {check.rule}\nexpected: {check.expected}\nseen: {seen}"
        case Status.SKIPPED:
            ET.SubElement(case, "skipped", {"message": seen[:300]})
        case Status.PASS:
            ET.SubElement(case, "system-out").text = seen
