"""The conformance suite: does somebody's exchange keep the rules of `tenor.exchange.v1`? Black box, over gRPC.

    outcome     what a check can come to, and what a refusal must say
    callers     who calls the server under test, as whom
    target      the server, and what the checks share
    market      what is traded for the suite, or given to it
    log         a log of delivery that the suite writes, right or wrong as a check wants it
    session     one publisher's turn
    positions trading delivery leaves evidence transport access     the checks, by area
    suite       the table of all checks, and how they are run
    report      results as JSON and JUnit XML

A check has a name, the rule that it holds the server to, and what it expects. It passes with what it saw, fails with
what it saw instead, or is skipped with what it lacked. Every check can fail: the tests show each failing.
"""
