"""The rows as a picture: six figures over the load, a line a policy. The same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.benchmarks.harness import Row
from tests.benchmarks.plots import OURS, svg

PANELS = (
    ("useful_of_pool_pct", "useful GPU time, % of one pool's", "linear"),
    ("lost_pct", "lost to preemption, % of occupied", "linear"),
    ("shortfalls", "owed gangs not running within 330 s", "symlog"),
    ("wait_inside_mean_s", "mean wait of owed gangs, s", "symlog"),
    ("wait_inside_max_s", "longest wait of an owed gang, s", "symlog"),
    ("outsiders_wait_mean_s", "mean wait of all others, s", "linear"),
)
COLOURS = ("#8c8c8c", "#b0b0b0", "#c9c9c9", "#b58900", "#cb4b16", "#6c71c4", OURS)
"""One a policy, in their order; the last one is Tenor's."""


def drawn(rows: Sequence[Row], policies: Sequence[str]) -> bytes:
    """SVG of the rows of `lending.means`: one line for each of the policies, in this order."""

    def panel(name: str, title: str, scale: str, axis: Any) -> None:
        _lines(axis, rows, policies, name)
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_yscale(scale)
        axis.set_xlabel("load, share of the fleet's peak")

    return svg([partial(panel, *each) for each in PANELS], (9, 9), columns=2)


def _lines(axis: Any, rows: Sequence[Row], policies: Sequence[str], name: str) -> None:
    for policy, colour in zip(policies, COLOURS[-len(policies) :], strict=True):
        points = sorted((float(row["load"] or 0), float(row[name] or 0)) for row in rows if row["policy"] == policy)
        last = policy == policies[-1]
        axis.plot(
            [load for load, _ in points],
            [figure for _, figure in points],
            label=policy,
            color=colour,
            marker="o",
            markersize=4 if last else 3,
            linewidth=2.2 if last else 1.2,
            zorder=3 if last else 2,
        )
