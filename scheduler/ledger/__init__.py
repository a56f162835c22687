"""The ledger: what was decided and delivered, durable before anybody is told, checkable by those who do not trust us.

    journal     the events in order, with the logs' leaves, the cursors and the snapshots, in one SQLite file
    treestore   the RFC 9162 tree of each stream, kept as tiles; on any SQLite connection
    lock        one process owns a journal
    keys notes  Ed25519 keys, signed notes, checkpoints and cosignatures, in the C2SP forms
    tiles       the paths and the entry bundles of the C2SP tlog-tiles layout
    bundle      a log as a plain folder that any tlog client can read and check

An event is durable before anything outside sees what follows from it; a leaf is acknowledged only once its receiver has
made it durable too.
"""
