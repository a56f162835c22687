"""What exchanges and auditors pull from a cluster: `tenor feed head`, `follow`, `pull`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.screen import Output, OutputOption, say, write_fields, write_json

if TYPE_CHECKING:
    from scheduler.core.errors import TenorError
    from scheduler.exchange.feed_client import FeedHead
    from scheduler.exchange.following import Place, Taken
    from scheduler.exchange.puller import Puller, PullStatus
    from scheduler.exchange.tls import Tls
    from scheduler.ledger.keys import VerifierKey

FIRST_ANSWER_S = 5.0
_LOOK_S = 0.1

app = typer.Typer(
    help="Pull what a cluster delivered: a verified copy of its log.", rich_markup_mode=None, no_args_is_help=True
)
FeedOption = Annotated[
    str | None,
    typer.Option(
        "--feed", metavar="HOST:PORT", envvar="TENOR_FEED_ADDRESS", help="Default: of the `tenor up` that runs here."
    ),
]
VkeyOption = Annotated[
    list[str] | None,
    typer.Option("--vkey", help="The log's verifier key to believe; default: the one of the first pull."),
]


@app.command()
def head(feed: FeedOption = None, output: OutputOption = Output.TABLE) -> None:
    """Where the log stands: its cursor, checkpoint, keys and witnesses."""
    from scheduler.exchange.feed_client import FeedClient

    where, tls = _where(feed)
    with FeedClient(where(), tls=tls) as client:
        found = client.head()
    cursor = found.cursor
    shown: dict[str, Any] = {
        "stream": cursor.stream,
        "epoch": cursor.epoch,
        "seq": cursor.seq,
        "oldest_seq": found.oldest.seq,
        "root": found.edge.root().hex(),
        "keys": [key.encode() for key in found.vkeys],
        "witnesses": list(found.witnesses),
        "instruments": [terms.id for terms in found.instruments],
    }
    if output is Output.JSON:
        write_json(shown)
        return
    write_fields((name.replace("_", " "), _shown(value)) for name, value in shown.items())


@app.command()
def follow(
    feed: FeedOption = None,
    after: Annotated[
        int | None, typer.Option("--after", min=0, metavar="SEQ", help="Leaves after this one; default: new ones.")
    ] = None,
    until_now: Annotated[bool, typer.Option("--until-now", help="End where the log ends.")] = False,
    vkey: VkeyOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the leaves of the log as they come, each proven before it is shown.

    With JSON one document a line; its `seq` is what to give to --after to go on from there.
    """
    from scheduler.exchange.feed_client import FeedClient
    from scheduler.exchange.following import Place
    from scheduler.exchange.puller import Puller

    where, tls = _where(feed)
    place = Place()
    if after is None:
        with FeedClient(where(), tls=tls) as client:
            found = client.head()
        place = Place(found.edge, found.cursor.epoch)
    printer = _Printer(place, after or 0, output)
    with Puller(where, printer, trusted=_keys(vkey), whole=True, tls=tls) as puller:
        _wait(puller, until_now=until_now)


@app.command()
def pull(
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="The bundle to make, or to bring forward.")],
    feed: FeedOption = None,
    keep_on: Annotated[bool, typer.Option("--follow", help="Go on as the log grows, until Ctrl-C.")] = False,
    vkey: VkeyOption = None,
) -> None:
    """Mirror the log into a bundle that `tenor audit` takes.

    Pulling again into the same folder fetches only what is new, and believes only keys that follow the bundle's first.
    """
    from scheduler.exchange.mirroring import MirrorKeeper
    from scheduler.exchange.puller import Puller
    from scheduler.ledger.mirror import Mirror

    where, tls = _where(feed)
    with Mirror(into) as mirror:
        keeper = MirrorKeeper(mirror)
        known = (keeper.key,) if keeper.key is not None else ()
        with Puller(where, keeper, trusted=_keys(vkey) or known, whole=True, tls=tls) as puller:
            _wait(puller, until_now=not keep_on)
        if mirror.kept is None:
            say(f"the log is empty: nothing was written to {into}")
        else:
            say(f"{into}: {mirror.kept.stated.size} leaves of {mirror.kept.stated.origin}")


class _Printer:
    """Keeps nothing but the place, and prints."""

    def __init__(self, place: Place, after: int, output: Output) -> None:
        self._place = place
        self._after = after
        self._output = output

    def place(self) -> Place | None:
        """How far it printed."""
        return self._place

    def take(self, taken: Taken, head: FeedHead) -> None:
        """Prints the leaves."""
        del head
        for seq, leaf in enumerate(taken.leaves, taken.first_seq):
            if seq > self._after:
                self._print(seq, leaf)
        self._place = taken.place

    def restore(self, head: FeedHead, leaves: Iterator[tuple[int, bytes]]) -> None:
        """Nothing: the puller was told that every leaf is wanted."""

    def _print(self, seq: int, leaf: bytes) -> None:
        import json

        from scheduler.api.wording import instant
        from scheduler.exchange.leaf_documents import document

        shown = document(seq, leaf)
        if self._output is Output.JSON:
            line = json.dumps(shown, ensure_ascii=False)
        else:
            seq_, written, kind, *rest = shown.values()
            names = list(shown)[3:]
            line = f"{seq_:>8}  {instant(written)}  {kind}  " + " ".join(
                f"{name}={_shown(value)}" for name, value in zip(names, rest, strict=True)
            )
        print(line, flush=True)


def _wait(puller: Puller, *, until_now: bool) -> None:
    """Until the log's end, or for ever. Raises why there is nothing to hope for."""
    began_s, lost = time.monotonic(), ""
    while not (puller.wait(0, _LOOK_S) and until_now):
        status = puller.status()
        if status.state == "frozen":
            raise _error(status)
        if status.error is not None and not status.heard_ms and time.monotonic() - began_s > FIRST_ANSWER_S:
            raise status.error
        if status.heard_ms and status.detail != lost:
            lost = status.detail
            say(f"lost the feed: {lost}; dialling again" if lost else "the feed answers again")
        if not until_now:
            time.sleep(_LOOK_S)


def _error(status: PullStatus) -> TenorError:
    from scheduler.core.errors import TenorError

    return status.error or TenorError(status.detail)


def _where(feed: str | None) -> tuple[Callable[[], str], Tls | None]:
    """Who says where the feed is: a scheduler that starts again here may get another port."""
    from scheduler.api.address import find_feed
    from scheduler.exchange.tls import tls_from_environment

    find_feed(feed)  # what is no address, or nowhere, is refused before anything is made
    return lambda: find_feed(feed), tls_from_environment()


def _keys(vkeys: list[str] | None) -> tuple[VerifierKey, ...]:
    from scheduler.ledger.keys import VerifierKey

    return tuple(VerifierKey.parse(each) for each in vkeys or ())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "-"
    if isinstance(value, dict):
        return "{" + " ".join(f"{name}={_shown(each)}" for name, each in value.items()) + "}"
    return str(value)
