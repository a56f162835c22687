"""Every error that Tenor raises on purpose. The class says what the caller can do about it.

    TenorError
    ├── Refused            the input is wrong; the same input will always be refused. Nothing was changed
    │   ├── InvalidValue       one value: what, which, was, expected
    │   ├── InvalidInstrument  a listing, with every fault named
    │   ├── UnknownName        a name that nothing answers to, with the names that would have done
    │   ├── Conflict           the input contradicts what is already known (a second owner, a taken name)
    │   │   ├── SequenceGap        something in between is missing: ask for it, or for a snapshot
    │   │   ├── Fenced             from a publisher whose epoch is over
    │   │   ├── Equivocation       the same key with other content: the stream freezes, a person must look
    │   │   └── Oversold           more than there is
    │   └── Unauthorised       the caller may not see or do this
    ├── Unavailable        an outside system did not answer; the same call may succeed later
    └── Damaged            stored bytes are not what was written; a person must look. Nothing was changed

A refusal of a *workload* (it waits) is not an error but data: `scheduler.core.workloads.Reason`.
"""

from __future__ import annotations

from collections.abc import Iterable


class TenorError(Exception):
    """The root: catching it catches everything that Tenor raises on purpose."""

    code: str = "ERROR"
    exit_code: int = 1


class Refused(TenorError):
    """The input is wrong, and the same input will always be refused. Nothing was changed."""

    code = "REFUSED"
    exit_code = 2


class InvalidValue(Refused):
    """One value is outside what is allowed: `floor_ppm of H100.BASE was 1200000, expected 0..1000000`."""

    code = "INVALID_VALUE"

    def __init__(self, what: str, which: str, was: object, expected: str) -> None:
        super().__init__(f"{what} of {which} was {was!r}, expected {expected}")
        self.what = what
        self.which = which
        self.was = was
        self.expected = expected


class InvalidInstrument(Refused):
    """A listing that cannot be honoured as written. `faults` names every fault, not only the first."""

    code = "INVALID_INSTRUMENT"

    def __init__(self, symbol: str, faults: Iterable[str]) -> None:
        self.symbol = symbol
        self.faults = tuple(faults)
        super().__init__(f"instrument {symbol} cannot be listed: " + "; ".join(self.faults))


class UnknownName(Refused):
    """Nothing answers to that name: `account was 'acmee', expected one of acme, borealis`."""

    code = "UNKNOWN_NAME"

    def __init__(self, what: str, was: str, known: Iterable[str] = ()) -> None:
        names = sorted(known)
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        super().__init__(f"{what} was {was!r}, expected one of {shown}" if names else f"{what} {was!r} is not known")
        self.what = what
        self.was = was


class Conflict(Refused):
    """The input contradicts what is already known: another hash for a key, a second owner, an oversold pool."""

    code = "CONFLICT"


class SequenceGap(Conflict):
    """Something between what is known and the input is missing. Ask for `expected` on, or for a snapshot."""

    code = "SEQUENCE_GAP"

    def __init__(self, stream: str, expected: int, got: int) -> None:
        super().__init__(f"seq of stream {stream} was {got}, expected {expected}: what lies between is missing")
        self.stream = stream
        self.expected = expected
        self.got = got


class Fenced(Conflict):
    """The input comes from a publisher whose epoch is over: a newer one has spoken."""

    code = "FENCED"


class Equivocation(Conflict):
    """The same key came twice with different content. The stream freezes; a person must look."""

    code = "EQUIVOCATION"


class Oversold(Conflict):
    """More was given away than there is."""

    code = "OVERSOLD"


class Unauthorised(Refused):
    """The caller may not see or do this."""

    code = "UNAUTHORISED"


class Unavailable(TenorError):
    """An outside system did not answer. The same call may succeed later."""

    code = "UNAVAILABLE"
    exit_code = 3


class Damaged(TenorError):
    """Stored bytes are not what was written. Nothing was changed; a person must look."""

    code = "DAMAGED"
    exit_code = 4
