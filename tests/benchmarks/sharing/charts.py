"""The rows as a picture: four figures over the load, a line a policy. The same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tests.benchmarks.harness import Row

PANELS = (
    ("useful_of_pool_pct", "useful GPU time, % of one pool's", "linear"),
    ("lost_pct", "lost to preemption, % of occupied", "linear"),
    ("shortfalls", "owed gangs not running within 330 s", "symlog"),
    ("wait_inside_mean_s", "mean wait of owed gangs, s", "symlog"),
)
STYLE: Any = {"svg.hashsalt": "tenor", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
COLOURS = ("#8c8c8c", "#b0b0b0", "#c9c9c9", "#b58900", "#cb4b16", "#6c71c4", "#1a7f37")
"""One a policy, in their order; the last one is Tenor's."""


def drawn(rows: Sequence[Row], policies: Sequence[str]) -> bytes:
    """SVG of the rows of `lending.means`: one line for each of the policies, in this order."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 6.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(2, 2).flatten()
        for axis, (name, title, scale) in zip(axes, PANELS, strict=True):
            _panel(axis, rows, policies, name)
            axis.set_title(title, fontsize=9, loc="left")
            axis.set_yscale(scale)
            axis.grid(alpha=0.25)
            axis.set_xlabel("load, share of the fleet's peak")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        picture = BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return picture.getvalue()


def _panel(axis: Any, rows: Sequence[Row], policies: Sequence[str], name: str) -> None:
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
