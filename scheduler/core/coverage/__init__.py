"""Which physical GPUs stand behind which position, now and over the calendar: a pure function of the promises.

A count is not a guarantee: eight free GPUs on eight nodes do not honour a lot of one whole node. So positions hold
*cells*. `assign` plans cells over the whole calendar, `replace` keeps the plan through trades, transfers and failures,
`waterfall` says who gets which cell when cells are lost, `shortage` proves who goes short, `deliverable` says what more
may be sold and `accreditation` what of the fleet is, `ownership` reads the plan at an instant and keeps its law,
`follow` moves names, never work.
"""
