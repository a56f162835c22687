"""What teams and admins call: the gRPC service `tenor.api.v1`, its server and its Python client."""
