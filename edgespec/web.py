"""The chat in a browser: textual-serve, behind a door. Needs the extra `web`."""

from __future__ import annotations

import hmac
import secrets
import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve.server import Server

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_COOKIE = "edgespec-token"


class ChatServer(Server):
    """Serves the chat at `url` to whoever has it whole. Each visit runs a process of its own.

    A page of somebody else's in the same browser could open a connection to this machine too, so the name that was
    asked for and the page that asks must be ours. textual-serve's page wants a font from elsewhere: the browser is told
    to fetch nothing that is not served here.
    """

    def __init__(self, host: str, port: int, options: Sequence[str], said: Callable[[str], None]) -> None:
        super().__init__(shlex.join([sys.executable, "-m", "edgespec", *options]), host, port, title="edgespec")
        self._token = secrets.token_urlsafe(24)
        self._said = said
        self.url = f"{self.public_url}/?token={self._token}"

    def initialize_logging(self) -> None:
        """Nothing is logged: addresses have the token in them."""

    async def on_startup(self, app: web.Application) -> None:
        self._said(f"the chat is at {self.url}; Ctrl-C ends it")

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        app.middlewares.append(guard)
        return app

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin", self.public_url)
        if request.host != urlsplit(self.public_url).netloc or origin != self.public_url:
            raise web.HTTPForbidden(text="This address is not served here.")
        token = request.query.get("token") or request.cookies.get(_COOKIE, "")
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise web.HTTPForbidden(text="Open the address that `edgespec web` printed, with the token.")
        response = await handler(request)
        if not response.prepared:
            sockets = self.public_url.replace("http", "ws", 1)
            sources = f"default-src 'self' 'unsafe-inline' data: {sockets}; frame-ancestors 'none'"
            response.headers["Content-Security-Policy"] = sources
            response.headers["Referrer-Policy"] = "no-referrer"
            response.set_cookie(_COOKIE, self._token, httponly=True, samesite="Strict")
        return response
