"""The webhook sender against a real HTTP server: each event at least once, in order, whatever the target does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.errors import Conflict, Damaged, InvalidValue, Refused, TenorError, Unauthorised, Unavailable
from scheduler.exports.cursor import Cursor, load
from scheduler.exports.source import Source, opened
from scheduler.exports.webhook import Sender, Target, secret_of
from tests.cli.conftest import Ended, tenor

Reply = tuple[int, dict[str, str]]
ACCEPT: Reply = (204, {})
DROP: Reply = (0, {})
"""The connection is closed without an answer, after the request was taken in."""


@dataclass
class Receiver:
    """A target: `replies` are used up one a POST, and then all are accepted."""

    allows: dict[str, str] = field(default_factory=lambda: {"WebHook-Allowed-Origin": "tenor"})
    replies: list[Reply] = field(default_factory=list)
    taken: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook?of=tenor"

    def told(self) -> list[dict[str, Any]]:
        """Every event that came, repeats too."""
        bodies = [json.loads(body) for _, body in self.taken]
        return [one for body in bodies for one in (body if isinstance(body, list) else [body])]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_OPTIONS(self) -> None:
            found.asked.append({name.lower(): value for name, value in self.headers.items()})
            self._answer((200, found.allows))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self._answer(found.replies.pop(0) if found.replies else ACCEPT)

        def _answer(self, reply: Reply) -> None:
            status, headers = reply
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Clock:
    """Time that passes only in pauses."""

    now_s: float = 1_800_000_000.0
    pauses: list[float] = field(default_factory=list)

    def pause(self, length_s: float) -> None:
        """Passes at once."""
        self.pauses += [length_s] if length_s else []
        self.now_s += length_s

    def __call__(self) -> float:
        """Now."""
        return self.now_s


@pytest.fixture
def source(bundle: Path) -> Iterator[Source]:
    with opened(bundle, bundle) as found:
        yield found


def send(receiver: Receiver, source: Source, cursor: Path, clock: Clock | None = None, **target: Any) -> int:
    clock = clock or Clock()
    with Sender(Target(receiver.url, **target), clock.pause, clock) as sender:
        return sender.send(source, cursor)


def test_everything_is_told_once_and_in_order(receiver: Receiver, source: Source, tmp_path: Path) -> None:
    cursor = tmp_path / "cursor.json"
    assert send(receiver, source, cursor) == source.size
    assert [one["id"] for one in receiver.told()] == [str(index) for index in range(source.size)]
    assert [len(json.loads(body)) for _, body in receiver.taken] == [100, 100, 100, 14]
    assert {headers["content-type"] for headers, _ in receiver.taken} == {
        "application/cloudevents-batch+json; charset=utf-8"
    }
    assert (len(receiver.asked), receiver.asked[0]["webhook-request-origin"]) == (1, "tenor")
    assert {headers["origin"] for headers, _ in receiver.taken} == {"tenor"}
    assert load(cursor, source.origin).next == source.size
    assert send(receiver, source, cursor) == 0


def test_events_by_themselves(receiver: Receiver, source: Source, tmp_path: Path) -> None:
    receiver.replies = [ACCEPT] * 5 + [(410, {})]
    with pytest.raises(Refused, match="wants no more events: it answered 410"):
        send(receiver, source, tmp_path / "cursor.json", many=1)
    assert {headers["content-type"] for headers, _ in receiver.taken} == {"application/cloudevents+json; charset=utf-8"}
    assert load(tmp_path / "cursor.json", source.origin).next == 5


def test_what_was_not_accepted_is_told_again(receiver: Receiver, source: Source, tmp_path: Path) -> None:
    """Server errors, a connection that drops after the request was taken in, a request to come later."""
    clock = Clock()
    receiver.replies = [(503, {}), DROP, ACCEPT, (429, {"Retry-After": "120"}), ACCEPT]
    assert send(receiver, source, tmp_path / "cursor.json", clock) == source.size
    ids = [json.loads(body)[0]["id"] for _, body in receiver.taken]
    assert ids == ["0", "0", "0", "100", "100", "200", "300"]
    assert clock.pauses == [1.0, 2.0, 120.0]
    names = [one["id"] for one in receiver.told()]
    assert set(names) == {str(index) for index in range(source.size)}


def test_a_target_that_stays_away_ends_it_and_the_next_run_goes_on(
    receiver: Receiver, source: Source, tmp_path: Path
) -> None:
    clock, cursor = Clock(), tmp_path / "cursor.json"
    receiver.replies = [ACCEPT, *[(500, {})] * 50]
    with pytest.raises(Unavailable, match=r"answered 500; tenor\.test/cluster-1:100-199 is sent again next time"):
        send(receiver, source, cursor, clock, give_up_s=100)
    assert clock.pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert load(cursor, source.origin).next == 100
    receiver.replies, receiver.taken = [], []
    assert send(receiver, source, cursor) == source.size - 100
    assert receiver.told()[0]["id"] == "100"


def test_nobody_there_is_no_answer(source: Source, tmp_path: Path) -> None:
    closed = Receiver(port=9)
    with pytest.raises(Unavailable, match="did not answer"):
        send(closed, source, tmp_path / "cursor.json", give_up_s=3)
    assert not (tmp_path / "cursor.json").exists()


def test_a_target_must_want_them(receiver: Receiver, source: Source, tmp_path: Path) -> None:
    for allows in ({}, {"WebHook-Allowed-Origin": "other.example"}):
        receiver.allows = allows
        with pytest.raises(Refused, match="does not say that it takes events of 'tenor'"):
            send(receiver, source, tmp_path / "cursor.json")
    assert receiver.taken == []
    assert send(receiver, source, tmp_path / "cursor.json", consent=False) == source.size
    assert len(receiver.asked) == 2


def test_a_target_says_how_often(receiver: Receiver, source: Source, tmp_path: Path) -> None:
    clock = Clock()
    receiver.allows = {"WebHook-Allowed-Origin": "*", "WebHook-Allowed-Rate": "120"}
    send(receiver, source, tmp_path / "cursor.json", clock)
    assert clock.pauses == [0.5] * 4


def test_requests_are_signed_and_carry_a_token(receiver: Receiver, source: Source, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(b"k" * 24).decode() + "\n", encoding="utf-8")
    secret = secret_of(tmp_path / "secret")
    receiver.replies = [(500, {}), ACCEPT]
    send(receiver, source, tmp_path / "cursor.json", secret=secret, token="t0ken", many=200)  # noqa: S106 - a test's
    for headers, body in receiver.taken:
        signed = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
        expected = base64.b64encode(hmac.digest(b"k" * 24, signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert headers["authorization"] == "Bearer t0ken"
    ids = [headers["webhook-id"] for headers, _ in receiver.taken]
    assert ids == ["tenor.test/cluster-1:0-199"] * 2 + ["tenor.test/cluster-1:200-313"], "again is the same id"


@pytest.mark.parametrize("status", [301, 400, 401, 415])
def test_what_will_never_be_accepted_is_not_tried_again(
    receiver: Receiver, source: Source, tmp_path: Path, status: int
) -> None:
    receiver.replies = [(status, {"Location": receiver.url})] * 2
    with pytest.raises(Refused, match=f"will not take .*: it answered {status}"):
        send(receiver, source, tmp_path / "cursor.json")
    assert len(receiver.taken) == 1


@pytest.mark.parametrize(
    ("url", "raised", "told"),
    [
        ("http://example.com/hook", Unauthorised, "plaintext, which is for a loopback address only"),
        ("http://127.0.0.1.example.com/", Unauthorised, "plaintext"),
        ("ftp://example.com/", InvalidValue, "expected https"),
        ("https://user:word@example.com/", InvalidValue, "expected https"),
        ("https://example.com:99999/", InvalidValue, "expected https"),
        ("hook", InvalidValue, "expected https"),
    ],
)
def test_addresses_that_will_not_do(url: str, raised: type[TenorError], told: str) -> None:
    with pytest.raises(raised, match=told):
        Target(url)


def test_a_cursor_of_another_log_or_history_is_refused(
    receiver: Receiver, source: Source, tmp_path: Path, bundle: Path
) -> None:
    cursor = tmp_path / "cursor.json"
    cursor.write_text('{"origin": "other.example", "next": 1, "last": ""}', encoding="utf-8")
    with pytest.raises(Conflict, match=r"is of the log other\.example"):
        send(receiver, source, cursor)
    cursor.write_text(json.dumps({"origin": source.origin, "next": 5, "last": "00"}), encoding="utf-8")
    with pytest.raises(Conflict, match="another history of that log"):
        send(receiver, source, cursor)
    cursor.write_text(json.dumps({"origin": source.origin, "next": 9_999, "last": "00"}), encoding="utf-8")
    with pytest.raises(Conflict, match="the log has 314 signed ones"):
        send(receiver, source, cursor)
    for content in ("{", "[]", '{"origin": 1, "next": 1, "last": ""}', '{"origin": "x", "next": -1, "last": ""}'):
        cursor.write_text(content, encoding="utf-8")
        with pytest.raises(Damaged, match="holds no cursor"):
            send(receiver, source, cursor)
    assert receiver.taken == []
    assert load(tmp_path / "none", "x") == Cursor("x")


def test_by_command(receiver: Receiver, bundle: Path, tmp_path: Path) -> None:
    given = ("export", "events", str(bundle), "--to", receiver.url, "--cursor", str(tmp_path / "cursor.json"))

    def command(*more: str) -> Ended:
        return tenor(*given, *more, home=tmp_path)

    ended = command()
    assert (ended.code, ended.out) == (0, "")
    assert "314 events of tenor.test/cluster-1 accepted, up to leaf 314" in ended.err
    assert len(receiver.told()) == 314
    assert "0 events" in command().err
    receiver.allows = {}
    (tmp_path / "cursor.json").unlink()
    refused = command()
    assert (refused.code, "does not say that it takes events" in refused.err) == (2, True)
    assert command("--follow").code == 2
