"""Where a running scheduler is found: an argument, the environment, or the file that it left in its state folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from scheduler.core.errors import InvalidValue, Unavailable

ADDRESS_VARIABLE = "TENOR_ADDRESS"
HOME_VARIABLE = "TENOR_HOME"
ADDRESS_FILE = "api.address"
FEED_VARIABLE = "TENOR_FEED_ADDRESS"
FEED_FILE = "feed.address"
MOST_PORTS = 65_535


def state_dir() -> Path:
    """The folder of a scheduler's own files: TENOR_HOME, else `~/.local/state/tenor`."""
    named = os.environ.get(HOME_VARIABLE, "")
    return Path(named) if named else Path.home() / ".local" / "state" / "tenor"


def find_address(address: str | None = None) -> str:
    """`host:port` of the scheduler to talk to. Raises Unavailable where nothing says it, InvalidValue where it is
    none.
    """
    return _found(address, ADDRESS_VARIABLE, ADDRESS_FILE, "--address", "the API")


def find_feed(address: str | None = None) -> str:
    """`host:port` of the feed to pull from. Raises as `find_address`."""
    return _found(address, FEED_VARIABLE, FEED_FILE, "--feed", "the feed")


def _found(address: str | None, variable: str, file: str, option: str, of: str) -> str:
    named = address or os.environ.get(variable, "")
    if named:
        checked_address(named, of)
        return named
    path = state_dir() / file
    try:
        left = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise Unavailable(
            f"no Tenor is running here: {path} is missing. Start one with `tenor up`, or say where it is "
            f"with {option} or {variable}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"the address of the running Tenor cannot be read from {path}: {error}") from error
    checked_address(left, of)
    return left


def checked_address(address: str, of: str = "the API") -> tuple[str, int]:
    """(host, port) of `host:port`. Raises InvalidValue."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > MOST_PORTS:
        raise InvalidValue("address", of, address, "host:port, as 127.0.0.1:7070")
    return host.strip("[]"), int(port)


def shown_address(host: str, port: int) -> str:
    """`host:port`, as `checked_address` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def write_address(path: Path, address: str) -> None:
    """Leave the address where clients look; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_suffix(".new")
    building.write_text(address + "\n", encoding="utf-8")
    building.replace(path)


def take_back_address(path: Path, address: str) -> None:
    """Remove the address that was left, where it is still this one: another that started since keeps its own."""
    with contextlib.suppress(OSError):
        if path.read_text(encoding="utf-8").strip() == address:
            path.unlink()
