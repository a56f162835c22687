"""The rows of benchmarks as pictures in SVG: the same rows give the same bytes.

`python -m tests.benchmarks.plots FROM TO` draws every document `FROM/NAME.json` that `make bench` wrote and that there
is a picture for as `TO/NAME.svg`; `docs/images` holds those that the documentation shows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tests.benchmarks.harness import Row

STYLE: Any = {"svg.hashsalt": "tenor", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
OURS = "#1a7f37"
OTHERS = ("#8c8c8c", "#b58900", "#cb4b16", "#6c71c4", "#2aa198", "#d33682")
BOUNDS = {"bound": "_", "bound-fitting": "_", "fgd-published": "x"}
"""Policies that are no runs of ours: marks beside the bars."""

Draw = Callable[[Any], None]


def svg(panels: Sequence[Draw], size: tuple[float, float], columns: int = 1) -> bytes:
    """A picture of so many panels, each drawn on its axes by a function; the first one's labels are the legend."""
    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).flatten()
        for axis, draw in zip(axes, panels, strict=False):
            draw(axis)
            axis.grid(alpha=0.25)
            axis.set_axisbelow(True)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        picture = BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return picture.getvalue()


def growth(rows: Sequence[Row]) -> bytes:
    """Of `round`: processor seconds of a full round, and milliseconds of one after an event, by size of the fleet."""

    def full(axis: Any) -> None:
        for number, method in enumerate(dict.fromkeys(str(row["method"]) for row in rows)):
            points = sorted((_of(row, "gpus"), _of(row, "cpu_s")) for row in rows if row["method"] == method)
            colour = OURS if number == 0 else OTHERS[number - 1]
            axis.plot(*zip(*points, strict=True), label=method, color=colour, marker="o", markersize=4)
            if number == 0:
                (gpus, seconds), last = points[0], points[-1][0]
                line = ((gpus, last), (seconds, seconds * last / gpus))
                axis.plot(*line, label="linear", color="#8c8c8c", linestyle="--", linewidth=1)
        _scaled(axis, "a full round, processor s")

    def after(axis: Any) -> None:
        ours = [row for row in rows if "event_cpu_p50_ms" in row]
        for name, style in (("event_cpu_p50_ms", ":"), ("event_cpu_p99_ms", "-")):
            points = sorted((_of(row, "gpus"), _of(row, name)) for row in ours)
            axis.plot(*zip(*points, strict=True), color=OURS, marker="o", markersize=4, linestyle=style)
        _scaled(axis, "after one event, processor ms: median (dotted), p99")

    return svg((full, after), (9, 3.6), columns=2)


def filled(rows: Sequence[Row]) -> bytes:
    """Of `openb`: per cent of the GPUs unallocated once 100 % of them were asked for, by list."""
    return svg((lambda axis: _bars(axis, rows, "unallocated_pct_at_100", "GPUs unallocated at 100 %, %"),), (9, 3.6))


def churned(rows: Sequence[Row]) -> bytes:
    """Of `churn`: per cent of the GPUs unallocated while work comes and goes, by list, a panel for each load."""

    def panel(load: float) -> Draw:
        at_load = [row for row in rows if row["load"] == load]
        return lambda axis: _bars(axis, at_load, "unallocated_pct", f"GPUs unallocated at load {load}, %")

    loads = sorted({_of(row, "load") for row in rows})
    return svg([panel(load) for load in loads], (9, 2.7 * len(loads)))


def planned(rows: Sequence[Row]) -> bytes:
    """Of `calendars`: lots that find no cell, by calendar and method."""

    def panel(axis: Any) -> None:
        named = [{**row, "pod_list": row["calendar"], "policy": row["method"]} for row in rows if "method" in row]
        _bars(axis, named, "unplaced_lots", "lots unplaced")
        axis.set_yscale("symlog")
        axis.tick_params(axis="x", labelrotation=20)

    return svg((panel,), (9, 4.2))


def remembered(rows: Sequence[Row]) -> bytes:
    """Of `delivery`: the memory of both sides over the records sent, and records a second by path."""

    def memory(axis: Any) -> None:
        kept = [row for row in rows if row["path"] == "memory"]
        for name, colour in (("exchange_mib", OURS), ("cluster_mib", OTHERS[0])):
            points = [(_of(row, "records"), _of(row, name)) for row in kept]
            axis.plot(*zip(*points, strict=True), label=name.partition("_")[0], color=colour, marker="o", markersize=4)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("records")
        axis.set_title("memory, MiB", fontsize=9, loc="left")

    def pace(axis: Any) -> None:
        paths = [row for row in rows if "exchange_cpu_us" in row]
        axis.barh([str(row["path"]) for row in paths], [_of(row, "records_a_s") for row in paths], color=OURS)
        axis.invert_yaxis()
        axis.set_title("records a second", fontsize=9, loc="left")

    return svg((memory, pace), (9, 3.2), columns=2)


PICTURES: Mapping[str, Callable[[Sequence[Row]], bytes]] = MappingProxyType(
    {"round": growth, "openb": filled, "churn": churned, "calendars": planned, "delivery": remembered}
)


def _of(row: Row, name: str) -> float:
    return float(row[name] or 0)


def _scaled(axis: Any, title: str) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("GPUs")
    axis.set_title(title, fontsize=9, loc="left")


def _bars(axis: Any, rows: Sequence[Row], name: str, title: str) -> None:
    """Bars by list and policy; the policies of `BOUNDS` as marks over each list's bars."""
    lists = list(dict.fromkeys(str(row["pod_list"]) for row in rows))
    policies = list(dict.fromkeys(str(row["policy"]) for row in rows))
    figures = {(row["pod_list"], row["policy"]): _of(row, name) for row in rows}
    bars = [policy for policy in policies if policy not in BOUNDS]
    width = 0.8 / len(bars)
    for number, policy in enumerate(bars):
        colour = OURS if policy == "tenor" else OTHERS[number - 1]
        at = [place + (number - (len(bars) - 1) / 2) * width for place in range(len(lists))]
        axis.bar(at, [figures.get((each, policy), 0) for each in lists], width, label=policy, color=colour)
    for policy in policies:
        if policy in BOUNDS:
            points = [(place, figures[each, policy]) for place, each in enumerate(lists) if (each, policy) in figures]
            shade = "#000000" if policy == "bound" else "#8c1515"
            mark = {"marker": BOUNDS[policy], "markersize": 12, "color": shade, "linestyle": "none"}
            axis.plot(*zip(*points, strict=True), label=policy, zorder=3, **mark)
    axis.set_xticks(range(len(lists)), [each.removeprefix("openb_pod_list_") for each in lists])
    axis.set_title(title, fontsize=9, loc="left")


def main(arguments: Sequence[str]) -> int:
    """Draw the documents of one folder into another; names those that it drew."""
    source, target = map(Path, arguments)
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.json")):
        if path.stem in PICTURES:
            drawn = PICTURES[path.stem](json.loads(path.read_text(encoding="utf-8"))["rows"])
            (target / f"{path.stem}.svg").write_bytes(drawn)
            print(path.stem)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
