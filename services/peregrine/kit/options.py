"""The gRPC options of every server and channel, in one place.

Keepalive and connection age follow gRFC A8 and A9: clients ping every minute even without calls, so
that a dead connection is noticed before the next call needs it; servers ask clients to connect anew
every two minutes, so that new replicas get load, with a grace that covers the longest stream.
No `retryPolicy`: retries are `ChannelPool`'s, where the budget sees them. (gRPC still repeats, on
its own, a call that provably never reached a handler.)
"""

import json
from typing import TypeAlias

from peregrine.kit.settings import ServeSettings

Options: TypeAlias = list[tuple[str, int | str]]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024

_NEVER_MS = 2**31 - 1
_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_BOTH: Options = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def server_options(settings: ServeSettings) -> Options:
    return [
        *_BOTH,
        # Two processes on one port would share its calls at random; the second must fail instead.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", 1000),
        ("grpc.keepalive_time_ms", 120_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.max_connection_age_grace_seconds * 1000)),
    ]


def channel_options(target: str) -> Options:
    options = [
        *_BOTH,
        # Without it, all channels to one target share one connection.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.client_idle_timeout_ms", _NEVER_MS),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.dns_min_time_between_resolutions_ms", 5_000),
        # Of one lookup, with all its search domains: two minutes otherwise, if an answer is lost.
        ("grpc.dns_ares_query_timeout", 5_000),
        # Peers are neighbours: neither a proxy nor a TXT record has a say.
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
    ]
    if target.startswith("dns:"):
        options.append(("grpc.service_config", _ROUND_ROBIN))
    return options
