"""The whole of the thinking: values and pure functions. No I/O, no clock, no randomness, no logging.

Time enters as an argument (`now_ms`), facts as events, and what comes back is plain data. The module order in
`docs/concepts/architecture.md` is the way the data takes.
"""
