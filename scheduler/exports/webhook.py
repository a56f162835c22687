"""CloudEvents to an address that asked for them: each at least once, in order, and remembered (`cursor`).

After the CloudEvents specification of HTTP 1.1 web hooks (https://github.com/cloudevents/spec): HTTPS, but for this
machine's own addresses; the target is asked first whether it wants them from us (an OPTIONS request with
`WebHook-Request-Origin`, answered with `WebHook-Allowed-Origin`); 2xx accepts, 410 ends it for good, 429 says when to
come again. With a secret each request is signed as Standard Webhooks has it (https://www.standardwebhooks.com):
HMAC-SHA256 over id, time and body. Redirects are not followed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from scheduler.core.errors import Conflict, InvalidValue, Refused, Unauthorised, Unavailable
from scheduler.exchange.addresses import is_loopback
from scheduler.exports.cursor import Cursor, load, save
from scheduler.exports.events import BATCHED, STRUCTURED, Event, batch, encoded, event
from scheduler.exports.source import Source

_ACCEPTED = (200, 201, 202, 204)
_GONE = 410
_AGAIN = (408, 429, 500, 502, 503, 504)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _LONGEST_ASKED_S = 1.0, 60.0, 3_600.0
_BODY_KEPT = 200


@dataclass(frozen=True, slots=True)
class Target:
    """Where events go, and as whom. `secret`: signs each request; `token`: goes along as a bearer's; `many`: events in
    one request, 1: each by itself. `consent`: ask first. Raises InvalidValue or Unauthorised for an address that will
    not do.
    """

    url: str
    sender: str = "tenor"
    secret: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    many: int = 100
    consent: bool = True
    timeout_s: float = 30.0
    give_up_s: float = 900.0
    authority: Path | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1) > 0
        except ValueError:  # a port that is none
            sound = False
        if not sound or parts.username or parts.fragment:
            raise InvalidValue("address", "a webhook", self.url, "https://host[:port]/path")
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise Unauthorised(f"{self.url} is plaintext, which is for a loopback address only: expected https")

    @property
    def path(self) -> str:
        """What is asked for at the host."""
        parts = urlsplit(self.url)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def connection(self) -> http.client.HTTPConnection:
        """To the host. Raises InvalidValue for an authority that cannot be read."""
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self.timeout_s)
        try:
            context = ssl.create_default_context(cafile=None if self.authority is None else str(self.authority))
        except (OSError, ssl.SSLError) as error:
            raise InvalidValue("authority", str(self.authority), "unreadable", f"certificates ({error})") from error
        return http.client.HTTPSConnection(host, port, timeout=self.timeout_s, context=context)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: http.client.HTTPMessage
    body: str


class Sender:
    """Sends to one target over one connection, made anew when it breaks. `pause` and `clock_s`: how time passes."""

    def __init__(
        self,
        target: Target,
        pause: Callable[[float], None] = time.sleep,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._target = target
        self._pause = pause
        self._clock_s = clock_s
        self._connection: http.client.HTTPConnection | None = None
        self._asked = not target.consent
        self._between_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    def send(self, source: Source, kept: Path, told: Callable[[int, int], None] = lambda _done, _of: None) -> int:
        """Sends every leaf from the cursor at `kept` on, and gives how many were accepted. The cursor moves after each
        request that was accepted, and is durable before the next.

        Raises Unavailable where the target did not accept for `give_up_s`, Refused where it never will, Conflict where
        the cursor is of another log or history; what was accepted before stays so.
        """
        cursor, sent = load(kept, source.origin), 0
        if cursor.next > source.size:
            raise Conflict(f"the cursor {kept} is at leaf {cursor.next}, the log has {source.size} signed ones")
        remaining = _after(source, cursor, kept)
        while chunk := list(islice(remaining, self._target.many)):
            self._deliver(chunk)
            cursor = cursor.after(int(chunk[-1]["id"]), str(chunk[-1]["leafhash"]))
            save(kept, cursor)
            sent += len(chunk)
            told(cursor.next, source.size)
            self._pause(self._between_s)
        return sent

    # -- one request ---------------------------------------------------------------------------------------------------

    def _deliver(self, chunk: list[Event]) -> None:
        alone = self._target.many == 1
        body = encoded(chunk[0]) if alone else batch(chunk)
        headers = {"Content-Type": f"{STRUCTURED if alone else BATCHED}; charset=utf-8", "Origin": self._target.sender}
        if self._target.token:
            headers["Authorization"] = f"Bearer {self._target.token}"
        name = f"{chunk[0]['source'].strip('/')}:{chunk[0]['id']}-{chunk[-1]['id']}"
        self._insisting(self._ask_first, name)
        self._insisting(lambda: self._request("POST", body, headers | self._signature(name, body)), name)

    def _insisting(self, attempt: Callable[[], _Answer | None], name: str) -> None:
        """Tries until it is accepted: pauses double from 1 s to 60 s, or are as long as the target asks."""
        began_s, pause_s = self._clock_s(), _FIRST_PAUSE_S
        while True:
            said = "did not answer"
            asked_s = None
            try:
                answer = attempt()
                if answer is None or answer.status in _ACCEPTED:
                    return
                said = f"answered {answer.status} {answer.body}".strip()
                if answer.status == _GONE:
                    raise Refused(f"{self._target.url} wants no more events: it {said}")
                if answer.status not in _AGAIN:
                    raise Refused(f"{self._target.url} will not take {name}: it {said}")
                asked_s = _seconds(answer.headers.get("Retry-After"))
            except ssl.SSLCertVerificationError as error:
                raise Refused(
                    f"the certificate of {self._target.url} is not believed: {error.verify_message}"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                self._hang_up()
                said = f"did not answer ({type(error).__name__}: {error})"
            if self._clock_s() - began_s + pause_s > self._target.give_up_s:
                raise Unavailable(f"{self._target.url} {said}; {name} is sent again next time")
            self._pause(pause_s if asked_s is None else min(asked_s, _LONGEST_ASKED_S))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _ask_first(self) -> _Answer | None:
        """Whether the target wants events of us, once; how often, where it says so. Raises Refused where it does
        not.
        """
        if self._asked:
            return None
        answer = self._request("OPTIONS", b"", {"WebHook-Request-Origin": self._target.sender})
        if answer.status in _AGAIN:
            return answer
        allowed = [each.strip() for each in (answer.headers.get("WebHook-Allowed-Origin") or "").split(",")]
        if self._target.sender not in allowed and "*" not in allowed:
            raise Refused(
                f"{self._target.url} does not say that it takes events of {self._target.sender!r}: it answered "
                f"{answer.status} without a WebHook-Allowed-Origin of that name or *"
            )
        rate = answer.headers.get("WebHook-Allowed-Rate", "*")
        if rate.isdecimal() and int(rate) > 0:
            self._between_s = 60 / int(rate)
        self._asked = True
        return None

    def _request(self, method: str, body: bytes, headers: dict[str, str]) -> _Answer:
        if self._connection is None:
            self._connection = self._target.connection()
        self._connection.request(method, self._target.path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read(_BODY_KEPT).decode("utf-8", "replace")
        answer.read()
        if answer.will_close:
            self._hang_up()
        return _Answer(answer.status, answer.headers, " ".join(text.split()))

    def _signature(self, name: str, body: bytes) -> dict[str, str]:
        if not self._target.secret:
            return {}
        at_s = str(int(self._clock_s()))
        signed = hmac.digest(self._target.secret, b".".join((name.encode(), at_s.encode(), body)), hashlib.sha256)
        return {
            "webhook-id": name,
            "webhook-timestamp": at_s,
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        }

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _after(source: Source, cursor: Cursor, kept: Path) -> Iterator[Event]:
    """The events from the cursor on, once the leaf before it is the one that was accepted."""
    for index, leaf in source.leaves(max(0, cursor.next - 1)):
        found = event(source.origin, index, leaf)
        if index >= cursor.next:
            yield found
        elif found["leafhash"] != cursor.last:
            raise Conflict(
                f"leaf {index} of {source.origin} is {found['leafhash']}, the cursor {kept} has {cursor.last}: this is "
                "another history of that log"
            )


def _seconds(given: str | None) -> float | None:
    """What Retry-After says, where it says seconds."""
    return float(given) if given is not None and given.isdecimal() else None


def secret_of(path: Path) -> bytes:
    """The secret in a file, without the blanks around it; `whsec_` and base64 as Standard Webhooks writes it, or any
    text.

    Raises InvalidValue where it is empty or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue("secret", str(path), "unreadable", f"a file of text ({error})") from error
    if not text:
        raise InvalidValue("secret", str(path), "empty", "a secret")
    if text.startswith("whsec_"):
        try:
            return base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except ValueError as error:
            raise InvalidValue("secret", str(path), "malformed", "base64 after whsec_") from error
    return text.encode()
