"""What leaves Tenor for other programs."""
