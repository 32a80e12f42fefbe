"""Who is let in: nobody without the token where there is one, and no page but our own."""

import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextframe.web.address import names_one_of

OPEN = (".js", ".css")
"""Parts of the page, which are public: the page cannot ask for them with a token."""
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",  # it would tell the token
    "x-content-type-options": "nosniff",
}


class Guard:
    """Around an application. `hosts`: names this server is asked by; None where a token keeps strangers out."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] | None, token: str | None) -> None:
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if (reason := self.objection(scope)) is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "http":
            await JSONResponse({"error": reason}, 403)(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": reason})

    def objection(self, scope: Scope) -> str | None:
        """Why a request is refused; None if it is not."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and not names_one_of(self.hosts, host):
            return f"this server is not {host}: open it by the address it prints"
        origin = headers.get("origin")
        if origin is not None and origin.partition("//")[2].lower() != host.lower():
            return "this page is not from here: open the one this server has"
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if self.token is None or (scope["type"] == "http" and scope["path"].endswith(OPEN)):
            return None
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return "the token is missing or wrong: open the address that was printed, with ?token="
        return None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
        await send(message)

    return sending
