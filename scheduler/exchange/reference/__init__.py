"""The reference exchange: a real server with its own database; the embedded default, the sandbox, the peer in tests.

    database    one SQLite file, one connection, one writer
    venue       instruments, trades and positions
    intake      the logs of delivery as they come in: checked, kept, acknowledged, or frozen
    services    the gRPC face of it
    server      the process: `python -m scheduler.exchange.reference`

It is another firm's system that happens to live in this repository: it shares no file and no table with the ledger, and
everything it says about delivery it recomputes from the leaves that it holds.
"""
