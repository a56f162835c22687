"""What `tenor up` can be told: arguments before the environment before the file, and a clear word where it is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from scheduler.config import UpSettings, default_home, load_settings
from scheduler.core.cluster import Fleet
from scheduler.core.errors import InvalidValue, TenorError

OPTIONS = sorted(UpSettings.model_fields)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and nothing of the caller's environment."""
    for name in [name for name in os.environ if name.startswith("TENOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return tmp_path


def written(home: Path, text: str) -> Path:
    (home / "config.toml").write_text(text, encoding="utf-8")
    return home


def test_arguments_go_before_the_environment_and_that_before_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(home, "nodes = 11\nspares = 1\ngrade = 'FILE'\nstream = 'file'\n")
    monkeypatch.setenv("TENOR_NODES", "12")
    monkeypatch.setenv("TENOR_GRADE", "ENV")
    settings = load_settings(home=home, nodes=13, grade=None)
    assert (settings.nodes, settings.grade, settings.stream, settings.spares) == (13, "ENV", "file", 1)
    assert settings.gpus_per_node == UpSettings.model_fields["gpus_per_node"].default


def test_the_file_is_looked_for_in_the_home_that_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "other").mkdir()
    written(home, "nodes = 11\n")
    written(home / "other", "nodes = 12\n")
    monkeypatch.setenv("TENOR_HOME", str(home))
    assert load_settings().nodes == 11
    assert load_settings(home=home / "other").nodes == 12
    monkeypatch.delenv("TENOR_HOME")
    assert load_settings().home == default_home() == home / "user/.local/state/tenor"
    default_home().mkdir(parents=True)
    written(default_home(), "nodes = 14\n")
    assert load_settings().nodes == 14


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_says_what_it_is_and_can_be_set_in_every_way(
    option: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = UpSettings.model_fields[option]
    assert field.description
    assert field.description.endswith(".")
    if option == "home":
        return
    default = field.get_default()
    few: dict[str, Any] = {"nodes": 5, "gpus_per_node": 5, "spares": 2, "planners": "ray"}
    few |= dict.fromkeys(
        ("identity", "authority", "exchange_authority", "feed_authority", "denied", "devices"), Path("certs/one.pem")
    )
    value = few.get(option, default + 200 if isinstance(default, int) else "127.0.0.1:7")
    assert getattr(load_settings(home=home, **{option: value}), option) == value
    monkeypatch.setenv(f"TENOR_{option.upper()}", str(value))
    assert getattr(load_settings(home=home), option) == value
    monkeypatch.delenv(f"TENOR_{option.upper()}")
    plain = str(value) if isinstance(value, Path) else value
    written(home, f"{option} = {plain!r}\n")
    assert getattr(load_settings(home=home), option) == value


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"nodez": 1}, "nodez of the settings was 1, expected Extra inputs are not permitted"),
    ({"nodes": 0}, "nodes of the settings was 0, expected Input should be greater than or equal to 1"),
    ({"nodes": 65}, "nodes of the settings was 65"),
    ({"nodes": "many"}, "nodes of the settings was 'many'"),
    ({"close_lag_ms": -1}, "close_lag_ms of the settings was -1"),
    ({"nodes": 4, "spares": 5}, "spares of the settings was 5, expected at most the 4 nodes"),
)


@pytest.mark.parametrize(("wrong", "told"), WRONG)
def test_what_is_wrong_is_named_wherever_it_was_said(wrong: dict[str, Any], told: str, home: Path) -> None:
    with pytest.raises(InvalidValue) as by_argument:
        load_settings(home=home, **wrong)
    assert told in str(by_argument.value)
    written(home, "".join(f"{name} = {value!r}\n" for name, value in wrong.items()))
    with pytest.raises(InvalidValue) as in_file:
        load_settings(home=home)
    assert told in str(in_file.value)


def test_what_is_wrong_in_the_environment_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENOR_NODES", "many")
    with pytest.raises(InvalidValue, match="nodes of the settings was 'many'"):
        load_settings(home=home)


@pytest.mark.parametrize("content", [b"nodes = \n", b"[nodes\n", b"\xff\xfe", b"nodes 4\n", b"nodes = 1\nnodes = 2\n"])
def test_a_file_that_is_no_toml_is_refused(content: bytes, home: Path) -> None:
    (home / "config.toml").write_bytes(content)
    with pytest.raises(TenorError, match=r"config\.toml"):
        load_settings(home=home)


@pytest.mark.parametrize(("nodes", "spares"), [(1, 0), (4, 0), (4, 1), (4, 4), (5, 2)])
def test_nodes_are_a_fleet_and_the_last_ones_are_spares(nodes: int, spares: int, home: Path) -> None:
    settings = load_settings(home=home, nodes=nodes, spares=spares, gpus_per_node=2, nodes_per_domain=2, site="here")
    specs = settings.node_specs()
    fleet = Fleet.of(specs)
    assert (len(specs), fleet.n_gpus, len(fleet.domains)) == (nodes, 2 * nodes, (nodes + 1) // 2)
    assert fleet.pools == (("LOGICAL", "here"),)
    assert settings.spare_names() == tuple(f"node-{k}" for k in range(nodes - spares, nodes))
