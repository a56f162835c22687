"""What `tenor up` can be told: by arguments, by `TENOR_…` variables, or by `config.toml` in its home; unknown keys are
refused.

Arguments go before the environment, the environment before the file. Times are in the unit that the name ends with.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from scheduler.core.cluster import NodeSpec
from scheduler.core.errors import InvalidValue, Unauthorised
from scheduler.exchange.tls import Tls, tls_of


def default_home() -> Path:
    """Where `tenor up` keeps its files unless told otherwise."""
    return Path("~/.local/state/tenor").expanduser()


class UpSettings(BaseSettings):
    """Every option of `tenor up`."""

    model_config = SettingsConfigDict(env_prefix="TENOR_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=default_home, description="Folder of the journal, logs, keys and addresses.")
    listen: str = Field(default="127.0.0.1:0", description="Address of the API; without an identity loopback only.")
    exchange: str | None = Field(default=None, description="Address of an exchange; none: an own reference exchange.")
    exchange_listen: str = Field(default="127.0.0.1:0", description="Where the own reference exchange listens.")
    identity: Path | None = Field(default=None, description="This cluster's certificate and key; with it, mutual TLS.")
    authority: Path | None = Field(default=None, description="Who signs the certificates of those that call the API.")
    exchange_authority: Path | None = Field(default=None, description="Who signs the exchange's; none: `authority`.")
    calls_per_s: int = Field(
        default=100, ge=1, description="Calls of the API, and of the feed, of each peer with a certificate."
    )
    streams_per_peer: int = Field(
        default=8, ge=1, description="Streams of the API, and of the feed, that each such peer may have open."
    )
    denied: Path | None = Field(
        default=None, description="File of peers, `ROLE/NAME` a line, that the API and the feed refuse; read again."
    )
    feed: str = Field(
        default="127.0.0.1:0",
        description="Address of the delivery feed; without an identity loopback only. Empty: no feed.",
    )
    feed_authority: Path | None = Field(
        default=None, description="Who signs the certificates of those that call the feed; none: `authority`."
    )
    feed_keep_leaves: int = Field(
        default=0, ge=0, description="How many of the log's last leaves the feed sends again; 0: all."
    )
    stream: str = Field(default="local", description="Name of this cluster's delivery stream.")
    key_overlap_ms: int = Field(
        default=604_800_000, ge=0, description="How long the log's old key signs beside the one that follows it."
    )
    nodes: int = Field(default=4, ge=1, le=64, description="Local nodes, with logical GPUs.")
    gpus_per_node: int = Field(default=8, ge=1, le=64, description="Logical GPUs of each local node.")
    grade: str = Field(default="LOGICAL", description="Grade of the local nodes' GPUs.")
    site: str = Field(default="local", description="Site of the local nodes.")
    nodes_per_domain: int = Field(default=2, ge=1, description="Local nodes in one NVLink domain.")
    devices: Path | None = Field(default=None, description="JSON file of the nodes' device UUIDs: they are pledged.")
    spares: int = Field(default=0, ge=0, description="Local nodes, the last ones, that are never sold.")
    planners: Literal["auto", "local", "ray"] = Field(
        default="auto", description="Who plans: this process, an actor a pool on Ray, or auto: Ray once it pays."
    )
    probe_every_ms: int = Field(default=30_000, ge=0, description="Between two probes of idle nodes; 0: never.")
    rehearse_every_ms: int = Field(
        default=900_000, ge=0, description="Between two rehearsals of scores for partly used nodes; 0: never."
    )
    round_every_ms: int = Field(default=100, ge=10, description="How often execution is looked at.")
    reading_ms: int = Field(default=5_000, ge=1_000, description="Longest time unseen before the meter estimates.")
    close_lag_ms: int = Field(default=1_000, ge=0, description="From an interval's end to its closing.")
    snapshot_every_events: int = Field(default=10_000, ge=100, description="Events between two snapshots.")

    @field_validator("spares")
    @classmethod
    def _are_nodes(cls, spares: int, given: ValidationInfo) -> int:
        if spares > given.data.get("nodes", spares):
            raise ValueError(f"at most the {given.data['nodes']} nodes")
        return spares

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the file in the home that they name."""
        del dotenv_settings, file_secret_settings
        given = {**env_settings(), **init_settings()}
        home = Path(given.get("home", default_home()))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, home / "config.toml")

    def api_tls(self) -> Tls | None:
        """How the API is served. Raises InvalidValue where only one of `identity` and `authority` is given."""
        return tls_of(self.identity, self.authority)

    def feed_tls(self) -> Tls | None:
        """How the feed is served. Raises as `api_tls`."""
        return tls_of(self.identity, self.feed_authority or self.authority)

    def exchange_tls(self) -> Tls | None:
        """How the exchange that was named is called; plaintext where it is the own one, on loopback."""
        if self.exchange is None:
            return None
        return tls_of(self.identity, self.exchange_authority or self.authority)

    def node_specs(self) -> tuple[NodeSpec, ...]:
        """The local nodes."""
        return tuple(
            NodeSpec(
                name=f"node-{i}",
                grade=self.grade,
                gpus=self.gpus_per_node,
                site=self.site,
                domain=f"domain-{i // self.nodes_per_domain}",
            )
            for i in range(self.nodes)
        )

    def spare_names(self) -> tuple[str, ...]:
        """The last local nodes, as many as are spares."""
        return tuple(spec.name for spec in self.node_specs()[self.nodes - self.spares :])


def load_settings(**given: object) -> UpSettings:
    """Settings from arguments (None: not given), environment and file. Raises InvalidValue naming the first fault,
    Unauthorised where the file may not be read.
    """
    try:
        return UpSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        which = ".".join(str(part) for part in first["loc"]) or "settings"
        expected = first["msg"].removeprefix("Value error, ")
        raise InvalidValue(which, "the settings", first.get("input"), expected) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidValue("content", "config.toml", str(error), "TOML in UTF-8") from error
    except OSError as error:
        raise Unauthorised(f"{error.filename} cannot be read: {error.strerror}") from error
