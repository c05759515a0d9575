"""What the dashboard shows: a row a question.

In a query, `{}` stands for the chosen namespaces and pods, and `{, reason="full"}` for them and
more. `of("HeraldX")` is what that alert looks at. `python helm/observability` writes the JSON.
"""

from __future__ import annotations

from grafana import Panel, Query, Row, Rules

TITLE = "Herald"
TEXT = (
    "Are people receiving their events, how fast, who is dropped and why, is a rollout going "
    "well, is the engine or a process the limit."
)


def rate(metric: str, by: str = "") -> str:
    """Of all chosen pods, a second."""
    selector = metric if "{" in metric else metric + "{}"
    return f"sum{f' by ({by})' if by else ''} (rate({selector}[$__rate_interval]))"


def quantile(q: float, histogram: str, by: str = "") -> str:
    """Of all chosen pods' histograms together."""
    return f"histogram_quantile({q}, {rate(histogram + '_bucket', by=by + ', le' if by else 'le')})"


def ours(metric: str) -> str:
    """A metric that every program with Prometheus's Python client has: of Herald's only."""
    return f"{metric}{{}} and on (namespace, pod, instance, worker) herald_build_info{{}}"


def rows(rules: Rules) -> list[Row]:
    """All of it."""

    def of(alert: str, legend: str) -> Query:
        return Query(rules.value(alert), legend)

    objective = rules.objective()
    late = f"{objective * 1000:g} ms"
    return [
        Row(
            "At a glance",
            [
                Panel(
                    "Processes that deliver",
                    "Those that hear themselves through the engine, of all. Less than 100 %: the "
                    "clients of the others get nothing.",
                    [Query("sum(herald_engine_up{}) / count(herald_engine_up{})", "deliver")],
                    unit="percentunit",
                    least=1.0,
                    alerts=["HeraldDeliveryStalled", "HeraldDown"],
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "Connections",
                    "WebSockets and streams of server-sent events.",
                    [Query("sum(herald_connections{})", "connections")],
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "Delivered a second",
                    "Events written to sockets: an event to everybody counts once for each.",
                    [Query(rate("herald_event_deliveries_total"), "delivered")],
                    unit="ops",
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "p99 to the socket",
                    "From the acceptance of an event to its write. Red: over the objective of "
                    f"{late}.",
                    [Query(quantile(0.99, "herald_publish_to_write_seconds"), "p99")],
                    unit="s",
                    at=objective,
                    alerts=["HeraldLatencyOverObjective"],
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "5xx to publishers",
                    "Part of what is published that is answered with 500 or 503.",
                    [of("HeraldPublishFailing", "5xx")],
                    unit="percentunit",
                    lines=["HeraldPublishFailing"],
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "Alerts that fire",
                    "Of Herald's, in the chosen namespaces.",
                    [
                        Query(
                            'count(ALERTS{alertname=~"Herald.*", alertstate="firing", '
                            'namespace=~"$namespace"}) or vector(0)',
                            "alerts",
                        )
                    ],
                    at=1,
                    kind="stat",
                    width=4,
                ),
            ],
        ),
        Row(
            "Are people receiving their events?",
            [
                Panel(
                    "Events on their way",
                    "Accepted: stored and answered with 202. Pushed: by the engine, to each "
                    "process that has a listener. Delivered: written to sockets. Replayed: read "
                    "from a log for who resumes. Pushed without delivered is a stall.",
                    [
                        Query(rate("herald_events_accepted_total"), "accepted"),
                        Query(rate("herald_engine_pushes_total"), "pushed"),
                        Query(rate("herald_event_deliveries_total"), "delivered"),
                        Query(rate("herald_events_replayed_total"), "replayed"),
                    ],
                    unit="ops",
                    alerts=["HeraldNothingWritten"],
                ),
                Panel(
                    "Resumes that end in a gap",
                    "Part of the positions with which clients come back whose followers are not "
                    "retained any more. A peak after a failover of the engine is usual; a level "
                    "is not.",
                    [of("HeraldResumeGaps", "gap")],
                    unit="percentunit",
                    lines=["HeraldResumeGaps"],
                ),
                Panel(
                    "Gaps, resumes and mended pushes",
                    "Gaps: clients were told that something may be missing. Read again: a channel "
                    "was read from its log because a push was lost. Pushed twice: harmless.",
                    [
                        Query(rate("herald_gaps_total"), "gaps told"),
                        Query(rate("herald_resumes_total", by="outcome"), "resumes, {{outcome}}"),
                        Query(rate("herald_heals_total"), "channels read again"),
                        Query(rate("herald_engine_duplicate_pushes_total"), "pushed twice"),
                    ],
                    unit="ops",
                ),
                Panel(
                    "Publishes refused, by status",
                    "429: too much is on its way to the engine. 503: the engine is away or lacks "
                    "replicas. 401 and 403: credentials. 400, 413, 422: the publisher's mistakes.",
                    [Query(rate("herald_publish_errors_total", by="status"), "{{status}}")],
                    unit="ops",
                    stack=True,
                    alerts=["HeraldPublishFailing", "HeraldPublisherAuthFailures"],
                ),
                Panel(
                    "Publishers told to slow down",
                    "Answers with 429, a second.",
                    [of("HeraldPublishersThrottled", "429")],
                    unit="ops",
                    lines=["HeraldPublishersThrottled"],
                ),
                Panel(
                    "Stored without copies, in 10 minutes",
                    "Events that too few replicas confirmed in time; with HERALD_MIN_REPLICAS "
                    "only. They are delivered all the same.",
                    [of("HeraldUncopied", "uncopied")],
                    lines=["HeraldUncopied"],
                ),
            ],
        ),
        Row(
            "How fast?",
            [
                Panel(
                    "From acceptance to the socket",
                    f"Of events that are pushed, not of replays. The line is the objective, {late}"
                    ". Needs synchronous clocks on the nodes.",
                    [
                        Query(quantile(0.5, "herald_publish_to_write_seconds"), "p50"),
                        Query(quantile(0.95, "herald_publish_to_write_seconds"), "p95"),
                        Query(quantile(0.99, "herald_publish_to_write_seconds"), "p99"),
                    ],
                    unit="s",
                    at=objective,
                ),
                Panel(
                    f"Events later than {late}",
                    "Part of them, over three windows; lines at the objective and at 14.4 times "
                    "of it.",
                    [
                        Query(
                            'herald:slow_writes:ratio_rate5m{namespace=~"$namespace"}',
                            "{{namespace}}, 5 minutes",
                        ),
                        Query(
                            'herald:slow_writes:ratio_rate1h{namespace=~"$namespace"}',
                            "{{namespace}}, 1 hour",
                        ),
                        Query(
                            'herald:slow_writes:ratio_rate6h{namespace=~"$namespace"}',
                            "{{namespace}}, 6 hours",
                        ),
                    ],
                    unit="percentunit",
                    lines=["HeraldLatencyFarOverObjective", "HeraldLatencyOverObjective"],
                ),
                Panel(
                    "Where the time goes",
                    "What is near the highest line is the limit. To the socket: all of it. "
                    "Answer: from a POST to its 202, so the engine's storing. Engine: the slowest "
                    "probe of a minute, stored and pushed back. Loop: how late timers fire in a "
                    "process that has too much to do.",
                    [
                        Query(
                            quantile(0.99, "herald_publish_to_write_seconds"), "to the socket, p99"
                        ),
                        Query(quantile(0.99, "herald_publish_answer_seconds"), "answer, p99"),
                        Query(
                            "max(herald_engine_probe_round_trip_seconds{})", "engine, slowest probe"
                        ),
                        Query(quantile(0.99, "herald_loop_delay_seconds"), "loop, p99"),
                    ],
                    unit="s",
                ),
                Panel(
                    "Acceptance to socket, all events",
                    "How many took how long.",
                    [
                        Query(
                            "sum by (le) (increase("
                            "herald_publish_to_write_seconds_bucket{}[$__rate_interval]))",
                            "{{le}}",
                        )
                    ],
                    unit="s",
                    kind="heatmap",
                    width=12,
                ),
                Panel(
                    "From a ping to its pong",
                    "The clients' networks, and how busy their pages are.",
                    [
                        Query(quantile(0.5, "herald_ping_round_trip_seconds"), "p50"),
                        Query(quantile(0.99, "herald_ping_round_trip_seconds"), "p99"),
                    ],
                    unit="s",
                    width=12,
                ),
            ],
        ),
        Row(
            "Who is dropped, and why?",
            [
                Panel(
                    "Connections ended, by close code",
                    "1000, 1005: the client went. 1006: the network. 1012: a drain. 3000: the "
                    "token expired. 3008: no sign of life. 4000: it read too slowly. All codes: "
                    "docs/protocol.md.",
                    [Query(rate("herald_disconnects_total", by="code"), "{{code}}")],
                    unit="ops",
                    stack=True,
                ),
                Panel(
                    "Clients refused, by reason",
                    "Handshakes and connects that were not taken. full and keys are never usual.",
                    [Query(rate("herald_refusals_total", by="reason"), "{{reason}}")],
                    unit="ops",
                    stack=True,
                    alerts=["HeraldFull", "HeraldNoKeys"],
                ),
                Panel(
                    "HTTP connections cut off, by reason",
                    "For a limit, or to make room (no_room: the open files are used up).",
                    [of("HeraldHttpCutOffs", "{{reason}}"), of("HeraldNoRoom", "no_room, {{pod}}")],
                    unit="ops",
                    lines=["HeraldHttpCutOffs"],
                    alerts=["HeraldNoRoom"],
                ),
                Panel(
                    "Closed for reading slowly, in 10 minutes",
                    "Part of the connections that were closed with 4000.",
                    [of("HeraldSlowConsumers", "{{namespace}}")],
                    unit="percentunit",
                    lines=["HeraldSlowConsumers"],
                ),
                Panel(
                    "Waiting to be sent",
                    "All connections together, and the worst. A connection is closed with 4000 "
                    "where more than HERALD_SEND_QUEUE_BYTES would wait (1 MiB unless set).",
                    [
                        Query("sum(herald_outbox_bytes{})", "all"),
                        Query("max(herald_outbox_deepest_bytes{})", "worst connection"),
                    ],
                    unit="bytes",
                ),
                Panel(
                    "Refused for token or origin",
                    "Part of those who connect.",
                    [of("HeraldAuthFailures", "{{namespace}}")],
                    unit="percentunit",
                    lines=["HeraldAuthFailures"],
                ),
                Panel(
                    "Publishers' credentials refused, in 15 minutes",
                    "Answers with 401 or 403.",
                    [of("HeraldPublisherAuthFailures", "{{namespace}}")],
                    lines=["HeraldPublisherAuthFailures"],
                ),
                Panel(
                    "Age of the issuer's keys",
                    "Since each process has fetched them; with HERALD_JWT_JWKS_URL only. They are "
                    "fetched again after five minutes, when a token comes.",
                    [Query("max by (pod) (herald_jwks_age_seconds{})", "{{pod}}")],
                    unit="s",
                    alerts=["HeraldJwksStale", "HeraldNoKeys"],
                ),
                Panel(
                    "Fetches of the issuer's keys, in 30 minutes",
                    "Failed ones without a good one between them are trouble.",
                    [
                        Query(
                            "sum by (pod, outcome) (increase(herald_jwks_fetches_total{}[30m]))",
                            "{{pod}}, {{outcome}}",
                        )
                    ],
                    lines=["HeraldJwksStale"],
                ),
            ],
        ),
        Row(
            "Is a rollout going well?",
            [
                Panel(
                    "Processes by version",
                    "In a rollout one comes as the other goes.",
                    [Query("count by (version) (herald_build_info{})", "{{version}}")],
                    stack=True,
                ),
                Panel(
                    "Connections by pod",
                    "Draining pods go down steadily, the others rise together.",
                    [Query("sum by (pod) (herald_connections{})", "{{pod}}")],
                    stack=True,
                ),
                Panel(
                    "Coming and going",
                    "After a drain (1012) as many should connect as were closed, spread over its "
                    "time. Those who connect far faster than they are closed come in a storm.",
                    [
                        Query(rate("herald_connects_total"), "connects"),
                        Query(rate('herald_disconnects_total{, code="1012"}'), "closed with 1012"),
                        Query(rate("herald_drained_connections_total"), "told to reconnect"),
                        Query(rate("herald_refusals_total"), "refused"),
                    ],
                    unit="ops",
                ),
                Panel(
                    "Drain time used",
                    "Of HERALD_DRAIN_SECONDS, and how much it will be when the last client has "
                    "been told, should it go on as it does: as planned that is 80 %.",
                    [
                        Query(
                            "max by (pod) "
                            "(herald_drain_age_seconds{} / herald_drain_limit_seconds{} > 0)",
                            "{{pod}}",
                        ),
                        of("HeraldDrainSlow", "{{pod}}, in the end"),
                    ],
                    unit="percentunit",
                    lines=["HeraldDrainSlow"],
                ),
                Panel(
                    "Left to be drained",
                    "Connections that a drain has still to close, and how many processes drain.",
                    [
                        Query("sum(herald_drain_left_connections{})", "connections left"),
                        Query("sum(herald_draining{})", "processes that drain"),
                    ],
                ),
                Panel(
                    "How full",
                    "Connections of HERALD_MAX_CONNECTIONS, or of what the limit of open files "
                    "allows.",
                    [of("HeraldConnectionsNearLimit", "{{pod}}")],
                    unit="percentunit",
                    lines=["HeraldConnectionsNearLimit"],
                    alerts=["HeraldFull"],
                ),
                Panel(
                    "Up since",
                    "How long each process has run: restarts show as falls.",
                    [
                        Query(
                            f"time() - min by (pod) ({ours('process_start_time_seconds')})",
                            "{{pod}}",
                        )
                    ],
                    unit="s",
                ),
                Panel(
                    "Users and channels",
                    "Summed over the processes: a user with pages on two counts twice.",
                    [
                        Query("sum(herald_users{})", "users"),
                        Query("sum(herald_channels{})", "channels"),
                    ],
                ),
                Panel(
                    "Messages from clients",
                    "Pings, pongs, acks and subscriptions.",
                    [
                        Query(rate("herald_client_messages_total"), "messages"),
                        Query(rate("herald_client_acks_total"), "acks"),
                        Query(rate("herald_pings_total"), "pings sent"),
                    ],
                    unit="ops",
                ),
            ],
        ),
        Row(
            "Is the engine the limit?",
            [
                Panel(
                    "Slowest probe of a minute",
                    "Through the engine and back, once a second. Usual: a few milliseconds.",
                    [Query("max by (pod) (herald_engine_probe_round_trip_seconds{})", "{{pod}}")],
                    unit="s",
                    lines=["HeraldEngineSlow"],
                ),
                Panel(
                    "Since the last probe was heard",
                    "On an average of five minutes. Usual: half a second. Beyond 3.5 s a process "
                    "is not ready.",
                    [of("HeraldProbeOld", "{{pod}}")],
                    unit="s",
                    lines=["HeraldProbeOld"],
                    alerts=["HeraldDeliveryStalled"],
                ),
                Panel(
                    "Links opened again, in 15 minutes",
                    "Of the process with the most. A failover is one of each kind.",
                    [of("HeraldEngineReconnects", "{{link}}")],
                    lines=["HeraldEngineReconnects"],
                ),
                Panel(
                    "From a POST to its 202",
                    "The engine's part is nearly all of it, unless the process is busy.",
                    [
                        Query(quantile(0.5, "herald_publish_answer_seconds"), "p50"),
                        Query(quantile(0.99, "herald_publish_answer_seconds"), "p99"),
                    ],
                    unit="s",
                ),
                Panel(
                    "Replicas",
                    "Attached to the primary (of a Cluster, to the one with the fewest), and how "
                    "many HERALD_MIN_REPLICAS wants.",
                    [
                        Query("min(herald_engine_replicas{})", "attached"),
                        Query("max(herald_engine_replicas_needed{})", "needed"),
                    ],
                    alerts=["HeraldReplicasMissing"],
                ),
                Panel(
                    "Events that were known already",
                    "Publishers repeat what was not answered: more of these means that answers "
                    "are lost or late.",
                    [Query(rate("herald_events_duplicate_total"), "duplicates")],
                    unit="ops",
                ),
            ],
        ),
        Row(
            "Is a process the limit?",
            [
                Panel(
                    "CPU",
                    "Of one core, which is all that a process can use.",
                    [
                        Query(
                            "sum by (pod) (rate(process_cpu_seconds_total{}[$__rate_interval]) "
                            "and on (namespace, pod, instance, worker) herald_build_info{})",
                            "{{pod}}",
                        )
                    ],
                    unit="percentunit",
                ),
                Panel(
                    "How late the loop is",
                    "p99 of the time by which timers fire late. An event to all of a pod's clients "
                    "holds its loop for 6 µs each.",
                    [of("HeraldLoopLate", "{{pod}}")],
                    unit="s",
                    lines=["HeraldLoopLate"],
                ),
                Panel(
                    "Memory",
                    "Resident. About 75 MB, and 2.6 KB a connection.",
                    [Query(f"sum by (pod) ({ours('process_resident_memory_bytes')})", "{{pod}}")],
                    unit="bytes",
                ),
                Panel(
                    "Open files",
                    "Of those that the system allows; each connection is one.",
                    [
                        Query(
                            "max by (pod) (process_open_fds{} / process_max_fds{} "
                            "and on (namespace, pod, instance, worker) herald_build_info{})",
                            "{{pod}}",
                        )
                    ],
                    unit="percentunit",
                    alerts=["HeraldNoRoom"],
                ),
                Panel(
                    "Workers that do not answer",
                    "Of HERALD_WORKERS.",
                    [of("HeraldWorkersMissing", "{{pod}}")],
                    lines=["HeraldWorkersMissing"],
                ),
                Panel(
                    "Tasks",
                    "asyncio's, of each process. One that only grows is a leak.",
                    [Query("max by (pod) (herald_tasks{})", "{{pod}}")],
                ),
                Panel(
                    "Tasks that failed, in 10 minutes",
                    "Of those that must never end; each begins again by itself.",
                    [of("HeraldTaskFailing", "{{pod}}, {{task}}")],
                    lines=["HeraldTaskFailing"],
                ),
                Panel(
                    "Sent",
                    "Bytes written to sockets, a second.",
                    [Query(rate("herald_sent_bytes_total", by="pod"), "{{pod}}")],
                    unit="Bps",
                    width=16,
                ),
            ],
        ),
    ]
