"""The server: pages and files over HTTP, and a WebSocket per visitor. The protocol is in docs/play.md."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from nextframe.errors import UserError
from nextframe.pages.drawing import png_bytes
from nextframe.version import VERSION
from nextframe.web.conversation import converse
from nextframe.web.guard import Guard
from nextframe.web.saving import FORMATS, save
from nextframe.web.uploads import MOST_BYTES, decoded_upload
from nextframe.web.visitors import Stage, Visitors

T = TypeVar("T")
PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
HEAVY_AT_ONCE = 2
"""Uploads decoded and walks saved; the others wait."""
UPLOADS_AT_ONCE = 4
"""Files that are on their way here, in memory."""
SLOWEST_UPLOAD = 2**15  # bytes a second
UPLOAD_GRACE_SECONDS = 10.0
DOWNLOADS_AT_ONCE = 8
"""Walks that are on their way to somebody: files on disk."""
PART = 2**18  # bytes of a file that are sent at once


def application(
    stage: Stage,
    sessions: int,
    hosts: tuple[str, ...] | None,
    token: str | None = None,
    ready: Callable[[], None] | None = None,
) -> FastAPI:
    """The server as an ASGI application; `ready` is called when it serves. What it starts ends with its lifespan."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.visitors = Visitors(stage, sessions)
        app.state.heavy = asyncio.Semaphore(HEAVY_AT_ONCE)
        app.state.receiving = asyncio.Semaphore(UPLOADS_AT_ONCE)
        app.state.sending = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
        try:
            if ready is not None:
                ready()
            yield
        finally:
            await app.state.visitors.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, hosts=hosts, token=token)
    app.add_exception_handler(UserError, lambda _, error: JSONResponse({"error": str(error)}, 404))
    pages = {path.name: path for path in PAGE.iterdir() if path.suffix in TYPES}

    @app.get("/")
    async def index() -> Response:
        return await part_of_page("index.html")

    @app.get("/api/world")
    async def world() -> JSONResponse:
        return JSONResponse({**facts_of(stage), **stage.facts()})

    _add_starts(app, stage)
    _add_walks(app, stage)

    @app.websocket("/play")
    async def play(socket: WebSocket) -> None:
        await converse(socket, app.state.visitors)

    @app.get("/{name}")
    async def part_of_page(name: str) -> Response:
        if name not in pages:
            return JSONResponse({"error": f"there is no {name}"}, 404)
        headers = {"cache-control": "no-cache"}  # another version may serve here tomorrow
        return FileResponse(pages[name], media_type=TYPES[pages[name].suffix], headers=headers)

    return app


def facts_of(stage: Stage) -> dict[str, Any]:
    """What there is to say alike of all that is played."""
    info, names = stage.info, stage.info.action_names
    vector = info.action_kind == "vector"
    return {
        "size": info.size,
        "fps": info.fps,
        "kind": stage.actions.kind,
        "actions": [] if vector else [{"id": place, "name": name} for place, name in enumerate(names)],
        "vector": names if vector else [],
        "version": VERSION,
    }


def _visitors(app: FastAPI) -> Visitors:
    return app.state.visitors


async def _chore(app: FastAPI, work: Callable[[], T]) -> T:
    job: Future[T] = _visitors(app).chores.submit(work)
    return await asyncio.wrap_future(job)


def _add_starts(app: FastAPI, stage: Stage) -> None:
    """What a walk may begin with: episodes, and what is uploaded."""
    size = stage.info.size

    @app.get("/api/thumbnail/{name}.png")
    async def thumbnail(name: str) -> Response:
        return Response(await _chore(app, lambda: stage.thumbnail(name)), media_type="image/png")

    @app.post("/api/upload")
    async def upload(request: Request) -> JSONResponse:
        if app.state.receiving.locked():
            return JSONResponse({"error": f"{UPLOADS_AT_ONCE} files are on their way already: try again"}, 503)
        async with app.state.receiving:
            content, until = bytearray(), asyncio.get_running_loop().time() + UPLOAD_GRACE_SECONDS
            try:
                async with asyncio.timeout_at(until) as patience:
                    async for part in request.stream():
                        content += part
                        patience.reschedule(until + len(content) / SLOWEST_UPLOAD)
                        if len(content) > MOST_BYTES:
                            line = f"the file is larger than {MOST_BYTES >> 20} MiB: cut it"
                            return JSONResponse({"error": line}, 413)
            except ClientDisconnect:
                return JSONResponse({"error": "the file has not come whole"}, 400)  # to nobody
            except TimeoutError:
                return JSONResponse({"error": f"the file comes too slowly: send {SLOWEST_UPLOAD >> 10} KiB/s"}, 408)
            try:
                async with app.state.heavy:
                    video = await _chore(app, lambda: decoded_upload(bytes(content), size, _visitors(app).folder))
                name = secrets.token_urlsafe(12)
                stage.keep(name, video)
            except UserError as error:
                return JSONResponse({"error": str(error)}, 415)
        return JSONResponse({"upload": name})


def _add_walks(app: FastAPI, stage: Stage) -> None:
    """What there is of a walk: its files, and single frames."""

    @app.get("/api/session/{name}/save")
    async def download(request: Request, name: str, format: str = "mp4") -> Response:
        if format not in FORMATS:
            return JSONResponse({"error": f"format {format!r} is unknown: choose {', '.join(FORMATS)}"}, 400)
        visitor = _visitors(app).visitor(name)
        path = visitor.game.history.path()
        if app.state.sending.locked():
            return JSONResponse({"error": f"{DOWNLOADS_AT_ONCE} walks are being saved already: try again"}, 503)
        async with AsyncExitStack() as held:
            await held.enter_async_context(app.state.sending)
            async with app.state.heavy:
                if await request.is_disconnected():
                    return Response(status_code=400)  # to nobody
                handle = await _chore(app, lambda: save(visitor.game, path, stage.info, format, _visitors(app).folder))
            held.enter_context(handle)
            size = os.fstat(handle.fileno()).st_size
            headers = {
                "content-disposition": f'attachment; filename="walk.{FORMATS[format]}"',
                "content-length": str(size),
            }
            return _Download(handle, held.pop_all(), headers)

    @app.get("/api/session/{name}/frame/{frame}.png")
    async def one_frame(name: str, frame: int, branch: int, kind: str = "dream") -> Response:
        game = _visitors(app).visitor(name).game
        branches = game.history.branches
        if not (0 <= branch < len(branches) and 0 <= frame < branches[branch].length):
            return JSONResponse({"error": f"branch {branch} has no frame {frame}"}, 404)
        step = branches[branch].step(frame)
        shown = await _chore(app, lambda: game.film.read(step.place) if kind == "dream" else game.truth(step))
        if shown is None:
            return JSONResponse({"error": f"the engine has not been asked for frame {frame}"}, 404)
        return Response(await _chore(app, lambda: png_bytes(shown)), media_type="image/png")


class _Download(StreamingResponse):
    """A file, until it is taken or its client goes. `held`: what ends with it."""

    def __init__(self, file: IO[bytes], held: AsyncExitStack, headers: dict[str, str]) -> None:
        super().__init__(_parts(file), media_type="application/octet-stream", headers=headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _parts(file: IO[bytes]) -> AsyncIterator[bytes]:
    while part := file.read(PART):
        await asyncio.sleep(0)  # to one who has gone all is sent at once: here that is noticed
        yield part
