"""The HTTP API: FastAPI routes that describe it in OpenAPI, and the fast way in front of them.

`POST /v1/events` and its batch are called directly, past FastAPI's routing and validation, which
would be most of their cost; FastAPI's routes of the same paths call the same functions, so that
document and behaviour agree, which a contract test checks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException

from service import __version__
from service.core.errors import HeraldError
from service.edge import documents, elsewhere
from service.edge.answers import (
    Answer,
    ProblemError,
    mishap_of,
    problem_of,
    send_answer,
)
from service.edge.asgi import App, Receive, Scope, Send
from service.edge.handshake import PATH as WEBSOCKET_PATH
from service.edge.history import History
from service.edge.inspection import Inspection
from service.edge.publishing import Publishing
from service.edge.streams import PATH as STREAM_PATH
from service.edge.streams import Streams
from service.edge.tickets import TicketOffice
from service.ports import Health

RenderMetrics = Callable[[], Awaitable[tuple[bytes, str]]]
"""The metrics in a scraper's text format, and its content type."""


class _Anything(PathConvertor):
    """A path with line feeds too: a channel with one is answered as a bad one, not as no route."""

    regex = "(?s:.*)"


register_url_convertor("anything", _Anything())

_DESCRIPTION = """Post events to users, topics or everyone. An event answered with 202 is stored;
every WebSocket of an addressed user receives it, in order, also after a lost connection."""


def build_api(
    publishing: Publishing,
    history: History,
    inspection: Inspection,
    tickets: TicketOffice,
    health: Health,
    is_draining: Callable[[], bool],
    render_metrics: RenderMetrics,
) -> FastAPI:
    """The FastAPI application with every HTTP endpoint."""
    app = FastAPI(
        title="Herald",
        version=__version__,
        summary="Publish events to connected people",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )

    @app.post("/v1/events", **documents.PUBLISH)
    async def publish(request: Request) -> Response:
        return _response(await publishing.publish(request.scope, request.receive))

    @app.post("/v1/events/batch", **documents.BATCH)
    async def publish_batch(request: Request) -> Response:
        return _response(await publishing.publish_batch(request.scope, request.receive))

    @app.get("/v1/channels/{channel:anything}/events", **documents.HISTORY)
    async def channel_events(channel: str, request: Request) -> Response:
        query = request.query_params
        if unknown := set(query) - {"after", "limit"}:
            detail = f"There is no parameter {min(unknown)!r}; there are `after` and `limit`."
            return _response(ProblemError(400, detail).answer())
        authorization = request.headers.get("authorization")
        return _response(
            await history.read(authorization, channel, query.get("after"), query.get("limit"))
        )

    @app.get("/v1/channels/{channel:anything}/state", **documents.STATE)
    async def channel_state(channel: str, request: Request) -> Response:
        if query := request.query_params:
            detail = f"There is no parameter {min(query)!r} here."
            return _response(ProblemError(400, detail).answer())
        return _response(await inspection.read(request.headers.get("authorization"), channel))

    @app.post("/v1/tickets", **documents.TICKETS)
    async def issue_ticket(request: Request) -> Response:
        return _response(await tickets.issue(request.scope, request.receive))

    @app.get("/healthz/live", **documents.LIVE)
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/healthz/ready", **documents.READY)
    async def ready() -> Response:
        trouble = "draining" if is_draining() else health.trouble()
        if trouble is not None:
            return _response(ProblemError(503, f"Not ready: {trouble}.").answer())
        return _response(Answer(200, b"application/json", b'{"status":"ready"}'))

    @app.get("/metrics", **documents.METRICS)
    async def metrics() -> Response:
        body, content_type = await render_metrics()
        return Response(body, headers={"content-type": content_type})

    _answer_errors_with_problems(app)
    app.openapi = lambda: documents.openapi(app)  # type: ignore[method-assign]
    return app


def with_client_edge(rest: App, streams: Streams) -> App:
    """The paths of clients, and `rest`.

    A WebSocket's opening does not come here (`edge.http`); those who come to its path without one
    are told so.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else None
        if path == STREAM_PATH:
            await streams(scope, receive, send)
        elif path == WEBSOCKET_PATH:
            await send_answer(send, _UPGRADE)
        else:
            await rest(scope, receive, send)

    return app


_UPGRADE = ProblemError(
    426,
    "This is a WebSocket endpoint; connect with ws:// or wss://.",
    headers=((b"upgrade", b"websocket"), (b"connection", b"upgrade")),
).answer()


async def nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    """What the client edge answers to HTTP where the API has a port of its own."""
    if scope["type"] == "http":
        await send_answer(
            send, ProblemError(404, elsewhere.at_clients_port(scope["path"])).answer()
        )


def _response(answer: Answer) -> Response:
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    headers["content-type"] = answer.content_type.decode()
    return Response(answer.body, status_code=answer.status, headers=headers)


def _answer_errors_with_problems(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def http_problem(request: Request, error: HTTPException) -> Response:
        headers = tuple(
            (name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()
        )
        match error.status_code:
            case 404:
                detail = elsewhere.at_api(request.url.path)
            case 405:
                allowed = (error.headers or {}).get("Allow", "another one")
                detail = f"{request.method} is not allowed here; {allowed} is."
            case _:
                detail = str(error.detail)
        return _response(ProblemError(error.status_code, detail, headers=headers).answer())

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _response(ProblemError(400, f"{where}: {first['msg']}.").answer())

    @app.exception_handler(HeraldError)
    async def herald_problem(request: Request, error: HeraldError) -> Response:
        return _response(problem_of(error).answer())

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        of_event = request.url.path.startswith("/v1/events")
        return _response(mishap_of(error, of_event=of_event).answer())
