"""What sharing a fleet comes to: Tenor and its baselines on the same gangs, told by the same tally.

`cases` makes the inputs, `tally` listens and counts, `site` plays the baselines that `quotas`, `pools` and `alone`
are, `tenor` plays the production code, `charts` draws the rows.
"""
