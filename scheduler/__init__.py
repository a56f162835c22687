"""Tenor: a GPU workload scheduler that honours traded compute instruments.

`scheduler.core` is the whole of the thinking, pure; around it stands one shell for each outside system. The way data
takes: exchange to positions, to entitlements, to coverage, to placement, to execution, to metering, to the exchange.
"""
