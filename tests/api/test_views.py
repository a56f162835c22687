"""Views of states that few ever see."""

from __future__ import annotations

from scheduler.api import views
from scheduler.core.cluster import NodeSpec
from scheduler.core.events import NodeJoined
from scheduler.core.state.state import State


def test_nodes_are_shown_before_there_is_any_account() -> None:
    state = State()
    assert views.nodes(state) == ()
    state.apply(NodeJoined(at_ms=1_000, node=NodeSpec(name="node-0", grade="LOGICAL", gpus=4)))
    (node,) = views.nodes(state)
    assert (node.name, node.gpus, node.unsold_gpus, node.idle_gpus, node.owners) == ("node-0", 4, 4, 4, ())
