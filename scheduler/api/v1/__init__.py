"""Generated stubs of `tenor.api.v1`."""
