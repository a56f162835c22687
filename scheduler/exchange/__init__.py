"""To and from exchanges, over gRPC: what is traded comes in, what was delivered goes out, provably.

    v1                   the generated wire (package tenor.exchange.v1)
    leaves convert errors    the core's values and errors on the wire
    client               what teams and tools ask of an exchange
    watcher              positions in: a snapshot, then events, for ever
    publisher            delivery out: leaves in batches until they are acknowledged
    checks               what makes a leaf one that is settled
    statements           what a statement is made of, the same on every side
    audit bundles        the evidence as a folder, and its judge
    disclosure           a seller's track record, from such evidence alone
    witnessing           what a cluster keeps of its witness
    reference            the reference exchange itself

The cluster only dials out. Losing the exchange loses nothing: positions stay as last known, the outbox grows.
"""
