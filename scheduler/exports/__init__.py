"""What leaves Tenor for programs that speak neither gRPC nor its log: tables, FOCUS rows, CloudEvents.

It exists because finance, data and event systems have forms of their own. Laws: the same log gives the same bytes;
integers stay exact; a file is there whole or not at all; memory does not grow with the log.

    source       a bundle, or the home of `tenor up`, running or not
    tables       rows as CSV, JSON lines, Parquet
    records      meter records, every field
    focus        contract commitments as the FinOps FOCUS specification has them
    events       leaves as CloudEvents
    webhook      CloudEvents to an address, at least once
"""
