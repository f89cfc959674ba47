"""The HTTP server. On loopback it answers any account of this machine; elsewhere, clients with the token."""

import asyncio
import hmac
import json
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from socket import socket
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from ...storage.errors import FoldstreamError
from ...storage.format.arrays import IMAGE
from ..loopback import on_loopback
from ..views.pages import template
from .batches import Batcher, FullError, Limits
from .bodies import GivenRow, Problem, RequestError, parse_body
from .openapi import describe_service
from .service import Answer, Service

log = logging.getLogger(__name__)

BODY_SECONDS = 60.0  # to receive a body
IDLE_SECONDS = 600.0  # until a connection without requests is closed
LEAVE_SECONDS = 10.0  # for requests that are being answered when the server is stopped
DISCARDED = 16  # times the largest body: so much is read to answer 413 before the connection is closed
POLL_SECONDS = 0.01
LIMITS = Limits()


@dataclass
class Endpoint:
    """What the handlers of requests share. `open` are those that have not answered yet."""

    service: Service
    batcher: Batcher[GivenRow, Answer]
    token: str | None
    document: dict[str, Any]
    run: str = ""
    limits: Limits = LIMITS
    open: set["Handler"] = field(default_factory=set)

    def busy(self) -> int:
        """The number of requests that are being received or answered. Clients may have left in between."""
        self.open = {handler for handler in self.open if handler.is_connected}
        return len(self.open)


class Handler(RequestHandler):
    """Checks who asks before anything else, and answers errors as JSON."""

    is_open = False  # without the token

    def initialize(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        endpoint.open.add(self)

    def on_finish(self) -> None:
        self.endpoint.open.discard(self)

    @property
    def is_connected(self) -> bool:
        """Whether the client is still there."""
        stream = getattr(self.request.connection, "stream", None)
        return stream is not None and not stream.closed()

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")

    def prepare(self) -> None:
        token = self.endpoint.token
        if token is None:  # a web page could reach loopback by a name of its own that leads there
            if not on_loopback(self.request.host_name.strip("[]")):
                self.refuse(403, [Problem("the host is not this machine; use the address that the server printed")])
        elif not self.is_open:
            scheme, _, given = self.request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
                self.set_header("WWW-Authenticate", "Bearer")
                self.refuse(401, [Problem("the token is missing or wrong; send 'Authorization: Bearer TOKEN'")])

    def refuse(self, status: int, problems: list[Problem] | tuple[Problem, ...]) -> None:
        """Answer with problems."""
        self.set_status(status)
        self.finish_json({"errors": [problem.to_json() for problem in problems]})

    def finish_json(self, value: Any) -> None:
        """Answer with JSON."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(value, ensure_ascii=False))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an unexpected error."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        reason = str(error) if isinstance(error, FoldstreamError) else self._reason
        if isinstance(error, HTTPError) and status_code == 404:
            reason = "there is no such page; see /openapi.json"
        self.refuse(status_code, [Problem(reason)])


class Unknown(Handler):
    """Any other address."""

    def prepare(self) -> None:
        super().prepare()
        if not self._finished:
            raise HTTPError(404)


class Health(Handler):
    is_open = True

    def get(self) -> None:
        self.finish_json({"status": "ok", **vars(self.endpoint.batcher.counts)})


class Document(Handler):
    def get(self) -> None:
        self.finish_json(self.endpoint.document)


class Page(Handler):
    def get(self) -> None:
        endpoint = self.endpoint
        self.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:")
        address = f"{self.request.protocol}://{self.request.host}"
        page = template("serve.html")
        image = {IMAGE: "BASE64"} if endpoint.service.schema.image else {}
        example = json.dumps({**endpoint.service.example, **image}, ensure_ascii=False)
        row = endpoint.document["components"]["schemas"]["Row"]
        self.finish(
            page.render(
                run=endpoint.run,
                address=address,
                row=row,
                example=example,
                token=endpoint.token is not None,
                image=bool(endpoint.service.schema.image and not endpoint.service.schema.table),
            )
        )


@stream_request_body
class Predict(Handler):
    """Predictions. The body is received in parts, so that a large one is refused before it is in memory."""

    def prepare(self) -> None:
        self.body = bytearray()
        super().prepare()
        if self._finished:
            return
        if self.endpoint.busy() > self.endpoint.limits.requests:
            self._refuse_work()
        elif int(self.request.headers.get("Content-Length", 0)) > self.endpoint.limits.body_bytes:
            self._refuse_size()

    def data_received(self, chunk: bytes) -> None:
        if self._finished:
            return
        self.body += chunk
        if len(self.body) > self.endpoint.limits.body_bytes:
            self._refuse_size()

    def _refuse_size(self) -> None:
        most = self.endpoint.limits.body_bytes
        self.body.clear()
        self.refuse(413, [Problem(f"the body has more than {most:,} bytes; send fewer rows at once")])

    def _refuse_work(self) -> None:
        self.set_header("Retry-After", "1")
        self.refuse(503, [Problem("too many requests are waiting; try again later")])

    async def post(self) -> None:
        if self._finished:
            return
        try:
            answer = await self.endpoint.batcher.answer(self._rows())
        except RequestError as error:
            self.refuse(error.status, error.problems)
        except FullError:
            self._refuse_work()
        else:
            if answer.problems:
                self.refuse(422, answer.problems)
            else:
                self.finish_json(answer.to_json())

    def _rows(self) -> list[GivenRow]:
        """The rows of the body. Raises RequestError for too many: each image takes much memory once it is decoded."""
        limits, schema = self.endpoint.limits, self.endpoint.service.schema
        rows = parse_body(schema, self.request.headers.get("Content-Type", ""), bytes(self.body))
        most = limits.batch_rows if schema.image else limits.request_rows
        if len(rows) > most:
            raise RequestError(413, [Problem(f"the request has {len(rows):,} rows; send at most {most:,} at once")])
        return rows


def make_application(endpoint: Endpoint) -> Application:
    """The routes of the server."""
    shared = {"endpoint": endpoint}
    handlers = {"/predict": Predict, "/health": Health, "/openapi.json": Document, "/": Page}
    routes: list[Any] = [(path, handler, shared) for path, handler in handlers.items()]
    return Application(routes, default_handler_class=Unknown, default_handler_args=shared, log_function=_log_request)


def _log_request(handler: RequestHandler) -> None:
    log.info(
        "%s %s: %d, %.1f ms",
        handler.request.method,
        handler.request.path,
        handler.get_status(),
        1000 * handler.request.request_time(),
    )


async def serve(
    service: Service,
    run: str,
    sockets: list[socket],
    token: str | None,
    ready: Callable[[], None],
    limits: Limits = LIMITS,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer the requests that have arrived. `ready` is called once requests are
    answered."""
    batcher = Batcher[GivenRow, Answer](service.answer, limits)
    document = describe_service(service.schema, run, service.example, token is not None)
    endpoint = Endpoint(service, batcher, token, document, run=run, limits=limits)
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await loop.run_in_executor(batcher.thread, service.warm_up)
    server = HTTPServer(
        make_application(endpoint),
        max_body_size=DISCARDED * limits.body_bytes,
        body_timeout=BODY_SECONDS,
        idle_connection_timeout=IDLE_SECONDS,
    )
    server.add_sockets(sockets)
    predicting = asyncio.create_task(batcher.run())
    ready()
    await stopped.wait()
    server.stop()
    with suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_SECONDS):
            while endpoint.busy():
                await asyncio.sleep(POLL_SECONDS)
    predicting.cancel()
    await server.close_all_connections()
    batcher.thread.shutdown(wait=False, cancel_futures=True)
