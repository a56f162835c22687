"""The demonstration: a day of trading, running, failing and delivering, in about a minute, with real processes."""
