"""The wire as peers see it: golden messages, and what of a released API may change."""
