"""The hub's limits and times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HubPolicy:
    """Seconds, bytes and counts; 0 connections means: no limit.

    Attributes:
        heartbeat_interval: silence after which a peer is pinged.
        heartbeat_timeout: further silence after which it is closed.
        connect_timeout: how long `herald.v1` may take to send `connect`.
        close_timeout: how long a peer may take to answer a close before it is cut off.
        send_queue_bytes: what may wait for one connection.
        max_message_bytes: of one client message.
        max_topics: subscriptions of one connection beyond its user and `all`.
        max_connections: of this process.
        max_connections_per_user: of one user, to this process.
        token_leeway: how long after its `exp` a token still counts.
        position_check_interval: how often positions are compared with the log.
        reads_in_flight: concurrent reads of logs.
    """

    heartbeat_interval: float = 25.0
    heartbeat_timeout: float = 10.0
    connect_timeout: float = 5.0
    close_timeout: float = 5.0
    send_queue_bytes: int = 1 << 20
    max_message_bytes: int = 64 * 1024
    max_topics: int = 100
    max_connections: int = 0
    max_connections_per_user: int = 0
    token_leeway: float = 5.0
    position_check_interval: float = 30.0
    reads_in_flight: int = 128
