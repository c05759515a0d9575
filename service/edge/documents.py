"""How the HTTP API describes itself: the OpenAPI parts that code alone does not show."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_REF = "#/components/schemas/"


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF + schema}}}


def _problem(description: str, *, retry: bool = False) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": description,
        "content": {"application/problem+json": {"schema": {"$ref": _REF + "Problem"}}},
    }
    if retry:
        response["headers"] = {
            "Retry-After": {
                "description": "Seconds to wait.",
                "schema": {"type": "integer", "minimum": 0},
            }
        }
    return response


_AUTH: dict[int | str, dict[str, Any]] = {
    401: _problem("No credential, or one that is not accepted."),
    403: _problem("A token without the scope `publish`."),
}
_ENGINE: dict[int | str, dict[str, Any]] = {
    503: _problem("The engine is away.", retry=True),
}
_PUBLISHED: dict[int | str, dict[str, Any]] = {
    503: _problem(
        "The engine is away, or too few replicas have confirmed the event, where that is demanded "
        "(`uncopied` says so); repeat with the same `id`.",
        retry=True,
    ),
}
_BODY: dict[int | str, dict[str, Any]] = {
    400: _problem("The request is not what it should be; `detail` says what and where."),
    408: _problem("The body came too slowly."),
    413: _problem(
        "The body, or the number of events, is over its limit. Events of a stream that came before "
        "are stored, and `results` says so."
    ),
    415: _problem("Another content type."),
    429: _problem("Too many events are in flight.", retry=True),
}
_SECURITY: dict[str, Any] = {"security": [{"bearer": []}]}

PUBLISH: dict[str, Any] = {
    "operation_id": "publish",
    "summary": "Publish one event",
    "description": "Answered only after the engine has stored the event.",
    "tags": ["events"],
    "status_code": 202,
    "response_description": "The event is stored.",
    "responses": {
        202: {"content": _json("Published"), "description": "The event is stored."},
        422: _problem(
            "The `id` was used before with another payload on a channel that `channels` names; "
            "the event was stored on none."
        ),
        **_AUTH,
        **_BODY,
        **_PUBLISHED,
    },
    "openapi_extra": {
        **_SECURITY,
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The same as `id`, bare or as a quoted string.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        ],
        "requestBody": {"required": True, "content": _json("Event")},
    },
}

BATCH: dict[str, Any] = {
    "operation_id": "publishBatch",
    "summary": "Publish many events",
    "description": (
        "Up to 10,000 events, as one JSON document or one event a line. One result per event, "
        "in order; an event that fails does not stop the others. Events for one channel keep "
        "their order."
    ),
    "tags": ["events"],
    "responses": {
        200: {"content": _json("BatchResults"), "description": "One result per event."},
        **_AUTH,
        **_BODY,
    },
    "openapi_extra": {
        **_SECURITY,
        "requestBody": {
            "required": True,
            "content": {
                **_json("Batch"),
                "application/x-ndjson": {
                    "schema": {"type": "string", "description": "One event a line."}
                },
            },
        },
    },
}

HISTORY: dict[str, Any] = {
    "operation_id": "readChannel",
    "summary": "Read a channel's retained events",
    "description": "Oldest first; `next` is the `after` of the next page.",
    "tags": ["events"],
    "responses": {
        200: {"content": _json("HistoryPage"), "description": "A page of events."},
        400: _problem("No channel, position or limit."),
        **_AUTH,
        **_ENGINE,
    },
    "openapi_extra": {
        **_SECURITY,
        "parameters": [
            {
                "name": "after",
                "in": "query",
                "description": "Events after this position; without it, everything retained.",
                "schema": {"$ref": _REF + "Position"},
            },
            {
                "name": "limit",
                "in": "query",
                "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
            },
        ],
    },
}

STATE: dict[str, Any] = {
    "operation_id": "inspectChannel",
    "summary": "Tell a channel's state",
    "description": (
        "What is retained, and who listens. Connections are those of the process that answers: "
        "ask each node, and each of its workers."
    ),
    "tags": ["operations"],
    "responses": {
        200: {"content": _json("ChannelState"), "description": "The state."},
        400: _problem("No channel."),
        **_AUTH,
        **_ENGINE,
    },
    "openapi_extra": _SECURITY,
}

TICKETS: dict[str, Any] = {
    "operation_id": "issueTicket",
    "summary": "Let a user's client open one stream",
    "description": (
        "A ticket opens `GET /v1/stream` once, for clients that cannot send a token, as "
        "`EventSource` on another origin. Hand it to the user's page only."
    ),
    "tags": ["streams"],
    "status_code": 201,
    "responses": {
        201: {"content": _json("Ticket"), "description": "Use it soon; it counts once."},
        **_AUTH,
        **{status: _BODY[status] for status in (400, 408, 413, 415)},
        **_ENGINE,
    },
    "openapi_extra": {
        **_SECURITY,
        "requestBody": {"required": True, "content": _json("TicketWish")},
    },
}

_SINCE = {
    "type": "string",
    "description": "`<channel>@<position>`, split at the last `@`.",
    "examples": ["user:alice@1763790000000-17"],
}
_EVENT_ID = {
    "type": "string",
    "description": "The `id:` of the last event that was dealt with; resumes every channel.",
    "examples": ["user:alice@1763790000000-18,all@1763780000000-0"],
}
_STREAM: dict[str, Any] = {
    "operationId": "openStream",
    "summary": "Listen to server-sent events",
    "description": (
        "An endless answer, for clients: the same events with the same guarantees as the "
        "WebSocket; see docs/sse.md. Of several credentials the token in the header goes first, "
        "then the ticket, then the cookie, which counts only together with an allowed `Origin` or "
        "`Sec-Fetch-Site: same-origin`."
    ),
    "tags": ["streams"],
    "security": [{"user": []}, {"ticket": []}, {"cookie": []}],
    "parameters": [
        {
            "name": "topics",
            "in": "query",
            "description": "Topics to join, separated by commas.",
            "schema": {"type": "string", "examples": ["news.sport,news.art"]},
        },
        {
            "name": "since",
            "in": "query",
            "description": "Where to resume, repeated for more channels.",
            "schema": {"type": "array", "items": _SINCE},
        },
        {"name": "Last-Event-ID", "in": "header", "schema": _EVENT_ID},
        {
            "name": "last_event_id",
            "in": "query",
            "description": "The same, for a new `EventSource`; the header goes before it.",
            "schema": _EVENT_ID,
        },
    ],
    "responses": {
        "200": {
            "description": (
                "The stream, until either side ends it. Each message is one `data:`, a JSON object "
                "as the WebSocket would send it. To a request that accepts `text/event-stream`, "
                "what would be a 503 is a stream that ends at once, after the message `close`."
            ),
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        "400": _problem("A topic, position or id that cannot be read."),
        "401": _problem("No token or ticket, or one that does not count."),
        "403": _problem("The origin is not allowed."),
        "429": _problem("This user has too many connections.", retry=True),
        "503": _problem("The server is full or draining, or the engine is away.", retry=True),
    },
}
"""What is served past FastAPI, which therefore knows nothing of it."""

LIVE: dict[str, Any] = {
    "operation_id": "live",
    "summary": "Does the event loop turn?",
    "tags": ["operations"],
}
READY: dict[str, Any] = {
    "operation_id": "ready",
    "summary": "Are events delivered?",
    "description": "The engine answers, and a probe published to itself came back in time.",
    "tags": ["operations"],
    "responses": {
        200: {
            "description": "Ready.",
            "content": {
                "application/json": {
                    "schema": {"type": "object", "properties": {"status": {"const": "ready"}}}
                }
            },
        },
        503: _problem("Not ready, or draining; `detail` says why."),
    },
}
METRICS: dict[str, Any] = {
    "operation_id": "metrics",
    "summary": "Prometheus metrics",
    "tags": ["operations"],
    "responses": {
        200: {
            "description": "The text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
}

_POSITION = {
    "type": "string",
    "description": "`<epoch>-<seq>`: a place in a channel's log.",
    "pattern": "^(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})$",
    "examples": ["1763790000000-17"],
}
_CHANNEL = {
    "type": "string",
    "description": "`user:<id>`, `topic:<name>` or `all`.",
    "minLength": 3,
    "examples": ["user:alice"],
}
_SCHEMAS: dict[str, Any] = {
    "Position": _POSITION,
    "Channel": _CHANNEL,
    "Event": {
        "type": "object",
        "additionalProperties": False,
        "required": ["to", "type"],
        "properties": {
            "to": {
                "description": "One channel or a list.",
                "oneOf": [
                    {"$ref": _REF + "Channel"},
                    {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 1000,
                        "items": {"$ref": _REF + "Channel"},
                    },
                ],
            },
            "type": {"type": "string", "minLength": 1, "maxLength": 200},
            "data": {"description": "Any JSON; reaches the client as it was sent."},
            "id": {
                "type": ["string", "null"],
                "minLength": 1,
                "maxLength": 255,
                "description": "Makes the event idempotent for 5 minutes.",
            },
            "ttl": {
                "type": ["number", "null"],
                "exclusiveMinimum": 0,
                "maximum": 315360000,
                "description": "Seconds after which it is no longer delivered.",
            },
        },
        "examples": [
            {"to": "user:alice", "type": "order.shipped", "data": {"order": 17}, "ttl": 3600}
        ],
    },
    "Published": {
        "type": "object",
        "required": ["id", "positions", "duplicate"],
        "properties": {
            "id": {"type": "string"},
            "positions": {
                "type": "object",
                "description": "Where the event is stored, by channel.",
                "additionalProperties": {"$ref": _REF + "Position"},
            },
            "duplicate": {
                "type": "boolean",
                "description": "All of its channels had this id already; nothing was delivered.",
            },
        },
    },
    "Batch": {
        "type": "object",
        "additionalProperties": False,
        "required": ["events"],
        "properties": {
            "events": {"type": "array", "maxItems": 10000, "items": {"$ref": _REF + "Event"}}
        },
    },
    "BatchResults": {
        "type": "object",
        "required": ["results"],
        "properties": {
            "results": {
                "type": "array",
                "items": {
                    "oneOf": [
                        {"$ref": _REF + "Published"},
                        {
                            "type": "object",
                            "required": ["problem"],
                            "properties": {"problem": {"$ref": _REF + "Problem"}},
                        },
                    ]
                },
            }
        },
    },
    "TicketWish": {
        "type": "object",
        "additionalProperties": False,
        "required": ["user"],
        "properties": {
            "user": {
                "type": "string",
                "minLength": 1,
                "maxLength": 255,
                "description": "Whose events the stream carries.",
            },
            "topics": {
                "type": "array",
                "description": "As the claim `topics` of a token: names, and patterns as `news.*`.",
                "items": {"type": "string", "minLength": 1, "maxLength": 201},
            },
            "expires_in": {
                "type": "number",
                "minimum": 1,
                "maximum": 86400,
                "default": 3600,
                "description": "Seconds that the stream may last.",
            },
        },
        "examples": [{"user": "alice", "topics": ["orders"], "expires_in": 3600}],
    },
    "Ticket": {
        "type": "object",
        "required": ["ticket", "expires"],
        "properties": {
            "ticket": {"type": "string"},
            "expires": {
                "type": "integer",
                "description": "Until when it can be used, in Unix seconds.",
            },
        },
    },
    "HistoryPage": {
        "type": "object",
        "required": ["events", "next"],
        "properties": {
            "events": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["id", "event", "data", "time"],
                    "properties": {
                        "id": {"$ref": _REF + "Position"},
                        "event": {"type": "string"},
                        "data": {},
                        "time": {"type": "string", "format": "date-time"},
                    },
                },
            },
            "next": {
                "description": "The position to go on from, or null at the end.",
                "oneOf": [{"$ref": _REF + "Position"}, {"type": "null"}],
            },
            "gap": {
                "type": "boolean",
                "description": "Present and true where events after `after` may be missing.",
            },
        },
    },
    "ChannelState": {
        "type": "object",
        "required": ["channel", "position", "first", "retained", "last", "here"],
        "properties": {
            "channel": {"$ref": _REF + "Channel"},
            "position": {
                "description": "The last one given out.",
                "$ref": _REF + "Position",
            },
            "first": {
                "description": "Of the oldest event that is retained.",
                "oneOf": [{"$ref": _REF + "Position"}, {"type": "null"}],
            },
            "retained": {
                "type": ["integer", "null"],
                "description": "Events in the log; those whose `ttl` has passed count until they "
                "are trimmed. Null where an older epoch has too many to be counted.",
            },
            "last": {
                "description": "The event at `position`, without its data; null where it is gone.",
                "oneOf": [
                    {
                        "type": "object",
                        "required": ["id", "event", "time"],
                        "properties": {
                            "id": {"$ref": _REF + "Position"},
                            "event": {"type": "string"},
                            "time": {"type": "string", "format": "date-time"},
                        },
                    },
                    {"type": "null"},
                ],
            },
            "here": {
                "type": "object",
                "description": "What the process that answers knows of its own connections.",
                "required": [
                    "time",
                    "node",
                    "worker",
                    "workers",
                    "connections",
                    "joining",
                    "position",
                    "listeners",
                ],
                "properties": {
                    "time": {
                        "type": "string",
                        "format": "date-time",
                        "description": "When this was so.",
                    },
                    "node": {
                        "type": "string",
                        "description": "Its name, with which the ids of its connections begin.",
                    },
                    "worker": {"type": "integer", "description": "Which of its workers, from 0."},
                    "workers": {"type": "integer"},
                    "connections": {
                        "type": "integer",
                        "description": "That listen, and were sent everything up to `position`.",
                    },
                    "joining": {
                        "type": "integer",
                        "description": "That are still being sent what they missed.",
                    },
                    "position": {"oneOf": [{"$ref": _REF + "Position"}, {"type": "null"}]},
                    "listeners": {
                        "type": "array",
                        "description": "The first 100 of `connections`.",
                        "items": {"$ref": _REF + "Listener"},
                    },
                },
            },
        },
    },
    "Listener": {
        "type": "object",
        "required": ["connection", "transport", "age", "waiting", "silent", "acked"],
        "properties": {
            "connection": {"type": "string", "description": "The id that its `welcome` has."},
            "transport": {"type": "string", "enum": ["websocket", "sse"]},
            "age": {"type": "number", "description": "Seconds since it was connected."},
            "waiting": {
                "type": "integer",
                "description": "Bytes, of all its channels, that its system has not taken yet.",
            },
            "silent": {"type": "number", "description": "Seconds since its last sign of life."},
            "acked": {
                "description": "The last `ack` of this channel; null where it sent none.",
                "oneOf": [{"$ref": _REF + "Position"}, {"type": "null"}],
            },
        },
    },
    "Problem": {
        "type": "object",
        "description": "A problem document (RFC 9457).",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "id": {"type": "string"},
            "stored": {
                "type": "object",
                "description": "The channels that have the event, where only some do.",
                "additionalProperties": {"$ref": _REF + "Position"},
            },
            "uncopied": {
                "type": "object",
                "description": "The channels where the event is stored, and delivered, but too few "
                "replicas have confirmed it in time.",
                "additionalProperties": {"$ref": _REF + "Position"},
            },
            "channels": {
                "type": "array",
                "description": "The channels on which an id conflicts.",
                "items": {"$ref": _REF + "Channel"},
            },
            "results": {
                "type": "array",
                "description": "Of the events of a batch that were dealt with before the problem.",
                "items": {},
            },
        },
    },
}


def openapi(app: FastAPI) -> dict[str, Any]:
    """The whole document; also kept as openapi/openapi.yaml, which a test compares."""
    if not app.openapi_schema:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        components = document.setdefault("components", {})
        # FastAPI's own 422 is not what this API answers.
        components["schemas"] = dict(_SCHEMAS)
        components["securitySchemes"] = {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key, or a service's JWT with the scope `publish`.",
            },
            "user": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "The user's token.",
            },
            "ticket": {
                "type": "apiKey",
                "in": "query",
                "name": "ticket",
                "description": "From `POST /v1/tickets`; it counts once.",
            },
            "cookie": {
                "type": "apiKey",
                "in": "cookie",
                "name": "herald_token",
                "description": "The user's token.",
            },
        }
        document["paths"]["/v1/stream"] = {"get": _STREAM}
        for of_channel in ("events", "state"):
            operation = document["paths"][f"/v1/channels/{{channel}}/{of_channel}"]["get"]
            del operation["responses"]["422"]
        app.openapi_schema = document
    return app.openapi_schema
