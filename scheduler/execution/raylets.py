"""Starts Ray's own processes for a local cluster, writes down which, and exits; `local_ray` runs it as a process.

It is apart from `local_ray` for two reasons: the scheduler must not import Ray (a driver dies with its raylet, and may
take its process along), and what a short-lived starter leaves behind belongs to nobody, so it outlives the scheduler.

Ray's `Node` is used as `ray start` uses it. Sockets get explicit names, because Ray's own choice of names is a race
when raylets start in parallel. One JSON line goes to stdout for each node that is up.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scheduler.execution.processes import descendants, identity

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 80 * 1024 * 1024  # Ray's minimum is 75 MiB; gangs do not use it

# Quick turnover of GPUs (dependencies: "Ray, measured"), and a dead raylet is seen in about two seconds: a refused
# connection counts at once, a slow answer only after 5 s, so that a busy machine does not lose healthy nodes.
SYSTEM_CONFIG: dict[str, Any] = {
    "raylet_report_resources_period_milliseconds": 10,
    "gcs_create_placement_group_retry_min_interval_ms": 20,
    "gcs_create_placement_group_retry_max_interval_ms": 50,
    "health_check_initial_delay_ms": 1_000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5_000,
    "health_check_failure_threshold": 3,
    # Without the head, raylets and drivers wait instead of giving up: losing Ray's head evicts nobody.
    "gcs_rpc_server_reconnect_timeout_s": 86_400,
    "gcs_server_request_timeout_seconds": 60,
    # No worker is started before a gang needs one: there is none that would be used.
    "enable_worker_prestart": False,
    "prestart_worker_first_driver": False,
}


def main() -> None:
    """Start what the request on stdin asks for: `{"temp_dir", "sockets", "address" or null, "nodes": [...]}`."""
    request = json.load(sys.stdin)
    # The path by which this module was found is not the nodes' own, nor that of the commands that will run there.
    os.environ.pop("PYTHONPATH", None)
    os.environ.update(request["environment"])
    address = request["address"]
    if address is None:
        address = _start_head(request)
    # Each must be up within 30 s (a constant of Ray's): more at a time than there are cores delays all of them.
    with ThreadPoolExecutor(max_workers=min(8, max(2, os.cpu_count() or 1))) as pool:
        for line in pool.map(lambda node: _start_node(request, address, node), request["nodes"]):
            _say(line)


def _start_head(request: dict[str, Any]) -> str:
    node = _ray_node(request, name="head", gpus=0, head=True, system_config=SYSTEM_CONFIG, labels={})
    _say({"name": None, "address": node.gcs_address, **_processes(node)})
    return str(node.gcs_address)


def _start_node(request: dict[str, Any], address: str, spec: dict[str, Any]) -> dict[str, Any]:
    labels = {f"tenor.dev/{key}": spec[key] for key in ("grade", "site", "block", "domain")}
    labels["tenor.dev/node"] = spec["name"]
    node = _ray_node(
        request,
        name=spec["name"],
        gpus=spec["gpus"],
        head=False,
        labels=labels,
        gcs_address=address,
        redis_address=address,
        env_vars={"TENOR_SLOW_FILE": str(Path(request["slow_dir"]) / spec["name"])},
    )
    return {"name": spec["name"], "address": address, **_processes(node)}


def _ray_node(
    request: dict[str, Any],
    *,
    name: str,
    gpus: int,
    head: bool,
    system_config: dict[str, Any] | None = None,
    **more: Any,
) -> Any:
    from ray._private.node import Node  # noqa: PLC0415 - only the starter needs Ray
    from ray._private.parameter import RayParams  # noqa: PLC0415

    sockets = f"{request['sockets']}/{request['serial']}.{'head' if head else request['short_names'][name]}"
    settings: dict[str, Any] = dict(  # RayParams' annotations are narrower than what it takes
        node_ip_address=LOOPBACK,
        node_name=name,
        num_cpus=0 if head else 8,
        num_gpus=gpus,
        object_store_memory=OBJECT_STORE_BYTES,
        temp_dir=request["temp_dir"],
        raylet_socket_name=f"{sockets}.r",
        plasma_store_socket_name=f"{sockets}.p",
        min_worker_port=0,
        max_worker_port=0,
        dashboard_agent_listen_port=0,
        metrics_export_port=0,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        _system_config=system_config,
        **more,
    )
    return Node(RayParams(**settings), head=head, shutdown_at_exit=False, spawn_reaper=False)


def _processes(node: Any) -> dict[str, list[dict[str, Any]]]:
    """What the node cannot live without, and what else was started for it."""
    kinds = {kind: [info.process.pid for info in infos] for kind, infos in node.all_processes.items()}
    vital = [pid for kind in ("raylet", "gcs_server") for pid in kinds.get(kind, [])]
    others = [pid for pids in kinds.values() for pid in pids if pid not in vital]
    return {"vital": _recorded(vital), "others": _recorded([*others, *descendants(vital)])}


def _recorded(pids: list[int]) -> list[dict[str, Any]]:
    return [process.model_dump() for pid in pids if (process := identity(pid)) is not None]


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
