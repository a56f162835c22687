"""Placement beyond one process: planners on Ray.

Each pool of the fleet has an actor that keeps a replica of the pool and plans it (`replica`, `actor`). The coordinator
sends each what changed, offers gangs that may use several pools, and merges the answers (`mirror`, `coordinator`); a
driver process holds the connection to Ray (`driver`, `ray_workers`). Law: a plan is the same, byte for byte, whoever
made it; losing an actor, its node or the driver costs a rebuild and is planned here meanwhile.
"""
