"""One fraud: how it is done, which check must name it first, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.exchange.evidence import Evidence

Made = Callable[[Path], list[str]]
"""Makes the evidence in a folder and gives the arguments of `tenor audit`."""


@dataclass(frozen=True)
class Fraud:
    """`check` is the first that must fail, and `says` is in what it says."""

    make: Made
    check: str
    says: str


def lie(leaves: Callable[[], list[bytes]], check: str, says: str) -> Fraud:
    """The seller tells something else, and signs it; the statements are those of an honest log."""
    return Fraud(lambda folder: [str(Evidence(leaves=leaves()).write(folder / "bundle"))], check, says)


def settled(change: Callable[[], Evidence], check: str, says: str) -> Fraud:
    """The bundle as a function makes it."""
    return Fraud(lambda folder: [str(change().write(folder / "bundle"))], check, says)


def forge(change: Callable[[Path], object], check: str, says: str, *arguments: str) -> Fraud:
    """Somebody changes the files of an honest bundle."""

    def make(folder: Path) -> list[str]:
        bundle = Evidence().write(folder / "bundle")
        change(bundle)
        return [str(bundle), *arguments]

    return Fraud(make, check, says)


def pair(first: Callable[[], Evidence], second: Callable[[], Evidence], check: str, says: str) -> Fraud:
    """Two bundles, each of them sound."""
    return Fraud(lambda folder: [str(first().write(folder / "a")), str(second().write(folder / "b"))], check, says)
