"""The playground's paths, in front of the client edge's."""

from __future__ import annotations

from service.core.errors import HeraldError
from service.edge.answers import ProblemError, problem_of, send_answer
from service.edge.asgi import App, Receive, Scope, Send
from service.edge.playground.deeds import PREFIX as DEEDS
from service.edge.playground.deeds import Deeds
from service.edge.playground.files import PREFIX as FILES
from service.edge.playground.files import Files
from service.edge.playground.visitors import check_deed, check_host

_API = "/dev/api"
"""Under it is the API, which a page of this port cannot reach where it has a port of its own."""
_NOTHING = ProblemError(404, "There is nothing here.")


def with_playground(rest: App, api: App, files: Files, deeds: Deeds, host: str) -> App:
    """The page, what it may have done, and `rest`. `host`: the address that is listened on."""

    async def serve_file(scope: Scope, receive: Receive, send: Send) -> None:
        _check(scope, host, "GET", "HEAD")
        if (found := files.find(scope["path"])) is None:
            raise _NOTHING
        await send_answer(send, found)

    async def do(scope: Scope, receive: Receive, send: Send) -> None:
        _check(scope, host, "POST")
        check_deed(scope["headers"])
        if (deed := deeds.find(scope["path"].removeprefix(DEEDS))) is None:
            raise _NOTHING
        await send_answer(send, await deed(receive))

    async def pass_on(scope: Scope, receive: Receive, send: Send) -> None:
        _check(scope, host, "POST")
        check_deed(scope["headers"])
        path = scope["path"].removeprefix(_API)
        await api({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    def choose(path: str) -> App:
        if path == "/" or path.startswith(FILES):
            return serve_file
        if path.startswith(_API + "/"):
            return pass_on
        return do if path.startswith(DEEDS) else rest

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await choose(scope["path"] if scope["type"] == "http" else "")(scope, receive, send)
        except HeraldError as error:
            await send_answer(send, problem_of(error).answer())

    return app


def _check(scope: Scope, host: str, *methods: str) -> None:
    check_host(scope["headers"], host)
    if scope["method"] not in methods:
        allowed = ", ".join(methods)
        raise ProblemError(405, f"Allowed is {allowed}.", headers=((b"allow", allowed.encode()),))
