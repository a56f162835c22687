"""Tenor: a GPU workload scheduler that honours traded compute instruments.

`scheduler.core` is the whole of the thinking, pure; around it stands one shell for each outside system. Five functions
tell the story, in the way that the facts take:

    core.positions.fold(events) -> positions                    what the exchange says
    core.entitlements.derive(positions, instruments, window)    what an account may use, and when
    core.coverage.assign(fleet, demands) -> holdings            which cells stand behind which promise
    core.placement.plan(snapshot, policy) -> plan               who runs where now, and why the rest waits
    core.settlement.settle(terms, records) -> statement         what is owed, from metered delivery alone

`core.state` is the fold of the journal's events that they share, `core.rounds` their steps in one round, and `service`
the loop around them: load, decide, persist, apply.
"""
