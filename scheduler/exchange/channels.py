"""The options of every channel and server: how large a message may be, and how the two ends know that the other lives.

A ping each 20 s, and 10 s for its answer, find a peer that is gone without a word; a server takes a ping each 5 s,
since it would end a connection that pings more often than it allows. gRPC ignores a name that it does not know in
silence, so a test looks up each of them in the library.
"""

from __future__ import annotations

from typing import Any

Options = tuple[tuple[str, Any], ...]

MOST_RECEIVED_BYTES = 16 << 20
"""Of one message to a server: a batch ends at about 1 MiB, a leaf is far below that."""
MOST_ANSWERED_BYTES = 64 << 20
"""Of one answer: a snapshot of many positions, or a fleet of 10,000 nodes, is one message."""
CONNECTION_AGE_MS = 3_600_000
"""So old, a connection is ended and made again, with the certificates of then."""
STREAM_S = 3_600.0
"""So long, a stream between cluster and exchange is ended and opened again from where it was: every call has an end."""

_ALIVE: Options = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)

CHANNEL_OPTIONS: Options = (
    *_ALIVE,
    ("grpc.max_receive_message_length", MOST_ANSWERED_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def server_options(
    *, most_received_bytes: int = MOST_RECEIVED_BYTES, age_ms: int = CONNECTION_AGE_MS, grace_ms: int | None = None
) -> Options:
    """Of a server. `grace_ms`: how long calls go on over a connection that has its age; None: as long as they take."""
    options: Options = (
        *_ALIVE,
        ("grpc.so_reuseport", 0),  # else a second server would share the port in silence
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.max_receive_message_length", most_received_bytes),
        ("grpc.max_send_message_length", MOST_ANSWERED_BYTES),
        ("grpc.max_connection_age_ms", age_ms),
        ("grpc.server_handshake_timeout_ms", 10_000),
    )
    return options if grace_ms is None else (*options, ("grpc.max_connection_age_grace_ms", grace_ms))
