"""Which faults there are, how they are written, and when each strikes.

A fault is `KIND:PLACE[:HOW OFTEN[:HOW LONG]]`. How often: a share of the messages (`0.1`), or the first so many (`3x`);
without it all of them. Whether a fault strikes follows from the seed, its text and how many messages it has met: the
same messages in the same order meet the same faults.
"""

from __future__ import annotations

import random
import re
import threading
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

from scheduler.core.errors import InvalidValue, UnknownName

_ONE_PPM = 1_000_000
_SHARE = re.compile(r"[01](\.\d{1,6})?")
_TIMES = re.compile(r"([1-9]\d{0,8})x")
_LENGTH = re.compile(r"(\d{1,5})(ms|s)")
_LONGEST_MS = 60_000
_DELAY_MS = 100


class Kind(StrEnum):
    """What goes wrong."""

    DROP = "drop"
    REPEAT = "repeat"
    REORDER = "reorder"
    DELAY = "delay"
    CUT = "cut"
    RESTART = "restart"
    COMPACT = "compact"
    EQUIVOCATE = "equivocate"
    MISSIGN = "missign"
    OVERSELL = "oversell"
    LIE = "lie"


class Place(StrEnum):
    """Which messages."""

    WATCH = "watch"
    HEARTBEATS = "heartbeats"
    BATCHES = "batches"
    ACKS = "acks"
    SNAPSHOT = "snapshot"
    STATEMENT = "statement"
    CHECKPOINT = "checkpoint"
    PROOFS = "proofs"
    TRADE = "trade"


_STREAMED = (Place.WATCH, Place.HEARTBEATS, Place.BATCHES, Place.ACKS)
PLACES: dict[Kind, tuple[Place, ...]] = {
    Kind.DROP: _STREAMED,
    Kind.REPEAT: (Place.WATCH, Place.BATCHES, Place.ACKS),
    Kind.REORDER: (Place.WATCH, Place.BATCHES, Place.ACKS),
    Kind.DELAY: tuple(Place),
    Kind.CUT: tuple(Place),
    Kind.RESTART: (Place.WATCH,),
    Kind.COMPACT: (Place.WATCH,),
    Kind.EQUIVOCATE: (Place.WATCH, Place.SNAPSHOT),
    Kind.MISSIGN: (Place.ACKS, Place.CHECKPOINT),
    Kind.OVERSELL: (Place.WATCH, Place.TRADE),
    Kind.LIE: (Place.BATCHES, Place.ACKS, Place.STATEMENT, Place.CHECKPOINT, Place.PROOFS),
}
"""Where each kind can be."""

MEANINGS: dict[Kind, str] = {
    Kind.DROP: "the message is lost: an event, a heartbeat, a batch of leaves, or an acknowledgement after the commit",
    Kind.REPEAT: "the message comes twice",
    Kind.REORDER: "the message comes after the one that follows it",
    Kind.DELAY: "the message, or the answer to a call, is late: by 100ms, or as the fourth part says",
    Kind.CUT: "the stream, or the call, ends with UNAVAILABLE",
    Kind.RESTART: "the same, and the exchange begins a new epoch of positions",
    Kind.COMPACT: "the cursor that a watch begins with is said to be compacted",
    Kind.EQUIVOCATE: "an event comes again with other content; a snapshot says other lots at the same cursor",
    Kind.MISSIGN: "the witness's cosignature is wrong",
    Kind.OVERSELL: "trade: the limit of lots listed does not hold; watch: events tell a thousand times the lots",
    Kind.LIE: "batches: acknowledged, and not kept; acks: more is acknowledged than came; statement: another amount; "
    "checkpoint: another size; proofs: prove nothing",
}
"""What each does, in a sentence for people."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault as it was written. `share_ppm` of the messages, or the first `times`; `length_ms` of a delay."""

    text: str
    kind: Kind
    place: Place
    share_ppm: int = _ONE_PPM
    times: int | None = None
    length_ms: int = _DELAY_MS

    @classmethod
    def parse(cls, text: str) -> Fault:
        """The fault that a text says. Raises InvalidValue, UnknownName."""
        kind, _, rest = text.partition(":")
        place, _, rest = rest.partition(":")
        often, _, length = rest.partition(":")
        if kind not in set(Kind):
            raise UnknownName("kind of fault", kind, Kind)
        allowed = PLACES[Kind(kind)]
        if place not in allowed:
            raise UnknownName(f"place of a fault {kind}", place, allowed)
        if length and kind != Kind.DELAY:
            raise InvalidValue("length", text, length, "none: only a delay has one")
        share_ppm, times = _often(text, often)
        return cls(text, Kind(kind), Place(place), share_ppm, times, _length_ms(text, length))


@dataclass(slots=True)
class Strikes:
    """A fault in force: how many messages it `met`, and how many it `struck`."""

    fault: Fault
    chance: random.Random = field(repr=False)
    met: int = 0
    struck: int = 0

    def strikes(self) -> bool:
        """Whether it strikes the message that it meets now."""
        self.met += 1
        fault = self.fault
        hit = self.met <= fault.times if fault.times is not None else self.chance.randrange(_ONE_PPM) < fault.share_ppm
        self.struck += hit
        return hit


class Faults:
    """The faults in force. Every method may be called from any thread."""

    def __init__(self, texts: Iterable[str] = (), seed: int = 0) -> None:
        """Raises InvalidValue, UnknownName."""
        self._seed = seed
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._in_force: dict[tuple[Kind, Place], Strikes] = {}
        self.set(texts)

    def set(self, texts: Iterable[str]) -> None:
        """Puts faults in force, all of them or none; one of the same kind and place is replaced, and counts anew.

        Raises InvalidValue, UnknownName.
        """
        faults = [Fault.parse(text) for text in texts]
        with self._guard:
            for fault in faults:
                chance = random.Random(f"{self._seed}/{fault.text}")
                self._in_force[fault.kind, fault.place] = Strikes(fault, chance)

    def clear(self, texts: Iterable[str] = ()) -> None:
        """Takes faults out of force, given as they were set; none: all. Raises UnknownName, and then takes out none."""
        with self._guard:
            places = {each.fault.text: place for place, each in self._in_force.items()}
            wanted = list(texts)
            for text in wanted:
                if text not in places:
                    raise UnknownName("fault in force", text, places)
            for text in wanted or list(places):
                self._in_force.pop(places[text], None)

    def counts(self) -> tuple[tuple[str, int, int], ...]:
        """(text, met, struck) of each in force, in the order in which they were set."""
        with self._guard:
            return tuple((each.fault.text, each.met, each.struck) for each in self._in_force.values())

    def struck(self, place: Place, *kinds: Kind) -> Fault | None:
        """The fault of one of the kinds that strikes the message that passes that place now, the first of them."""
        with self._guard:
            found = [self._in_force.get((kind, place)) for kind in kinds]
            hit = [each.fault for each in found if each is not None and each.strikes()]
        return hit[0] if hit else None

    def pause(self, length_ms: int) -> None:
        """Returns after so long, or when the exchange stops."""
        self._ended.wait(length_ms / 1_000)

    def close(self) -> None:
        """Ends every pause: the exchange stops."""
        self._ended.set()


def faults_from_file(path: Path) -> tuple[tuple[str, ...], int | None]:
    """The faults of a TOML file (`faults = [...]`, `seed = 7`) and its seed; None where it says none.

    Raises InvalidValue where it is no such file.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidValue("faults", str(path), "unreadable", f"a TOML file ({error})") from error
    unknown = sorted(told.keys() - {"faults", "seed"})
    if unknown:
        raise InvalidValue("name", str(path), unknown[0], "faults or seed")
    texts, seed = told.get("faults", []), told.get("seed")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidValue("faults", str(path), texts, 'a list of texts, as ["drop:watch:0.1"]')
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise InvalidValue("seed", str(path), seed, "an integer")
    return tuple(texts), seed


def faults_of(texts: Iterable[str], path: Path | None, seed: int | None, *, controlled: bool) -> Faults | None:
    """The faults that an exchange starts with: those of a file, then `texts`. `seed` goes before the file's; 0 without
    either. None for an honest exchange: where there are none, and nobody may set any (`controlled`).

    Raises InvalidValue, UnknownName.
    """
    told, told_seed = faults_from_file(path) if path is not None else ((), None)
    wanted = (*told, *texts)
    if not wanted and not controlled:
        return None
    return Faults(wanted, seed if seed is not None else told_seed or 0)


def _often(text: str, often: str) -> tuple[int, int | None]:
    """(share in ppm, how many times at the most)."""
    if not often:
        return _ONE_PPM, None
    times = _TIMES.fullmatch(often)
    if times:
        return _ONE_PPM, int(times[1])
    share = Decimal(often) if _SHARE.fullmatch(often) else Decimal(-1)
    if not 0 < share <= 1:
        raise InvalidValue("how often", text, often, "a share above 0 and up to 1, as 0.1, or a number of times, as 3x")
    return int(share * _ONE_PPM), None


def _length_ms(text: str, length: str) -> int:
    if not length:
        return _DELAY_MS
    found = _LENGTH.fullmatch(length)
    length_ms = int(found[1]) * (1_000 if found[2] == "s" else 1) if found else -1
    if not 0 < length_ms <= _LONGEST_MS:
        raise InvalidValue("how long", text, length, "a length of time, as 200ms or 2s, a minute at most")
    return length_ms
