"""Figures that are measured, not promised: `make bench` runs every benchmark and writes build/bench/NAME.json.

One module a benchmark, listed in `table.py`. A benchmark runs its baselines in the same run, on the same machine, so
that its rows can be compared with each other; figures of different machines cannot.
"""
