"""Limits what clients of `serve` may send, from where, and how slowly."""

import asyncio
import re

import h11
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

SLOWEST = 120.0  # seconds; longest time to receive a request, headers and body


class Gate:
    """Refuses requests that are too large or that come from pages of other sites.

    The Origin header reveals requests from other pages; the Host header reveals DNS rebinding.
    Starlette's TrustedHostMiddleware checks only Host, and its error does not name the host.

    Args:
        app: handles the accepted requests.
        hosts: allowed host names; None allows any.
        most_bytes: size limit of a request's body.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, most_bytes: int) -> None:
        self._app, self._hosts, self._most = app, hosts, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it with status 403, 411 or 413."""
        app = self._app
        if scope["type"] == "http" and (refusal := self._refuse(Headers(scope=scope))):
            status, why = refusal
            app = JSONResponse({"error": why}, status)
        await app(scope, receive, send)

    def _refuse(self, headers: Headers) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        length = headers.get("content-length", "0")
        if self._hosts and re.sub(r":\d*$", "", host) not in self._hosts:
            return 403, f"{host} is not a name of this server"
        if origin and origin.partition("://")[2] != host:
            return 403, f"pages from {origin} may not use this server"
        if "transfer-encoding" in headers or not length.isdigit():
            return 411, "send the length of the body as Content-Length"
        if int(length) > self._most:
            return 413, f"more than {self._most / 1e6:g} MB in one request"
        return None


class TimelyProtocol(H11Protocol):
    """Extends uvicorn's protocol: closes the connection if a request is not complete in time.

    uvicorn itself limits only the pause between two requests.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the timer of the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Starts the timer of the next request, or stops it when a request is complete."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timer."""
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(SLOWEST, self.transport.abort)

    def _stop(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None
