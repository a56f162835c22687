"""Scores for partly used nodes: where a worker goes so that what comes later still fits. Pure, integers only.

A score only orders the places that are lawful; `choice.choose` is the door, `table.SCORES` the table, `rehearsal`
learns what a score knows and says which one suits the work that is seen.
"""
