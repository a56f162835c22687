"""Tenor in Kubernetes: objects in and out of the core. Depends on `scheduler`, never the reverse."""
