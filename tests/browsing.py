"""What the tests of the page have in common: words for what a visitor does and sees, and a stage that acts a server."""

import json
import re
import struct
import time
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from playwright.sync_api import Page, Route, WebSocketRoute, expect
from tiny import eventually

PAGE = Path(__file__).parent.parent / "nextframe" / "web" / "page"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
PATIENCE = 60_000  # ms
expect.set_options(timeout=PATIENCE)


def begun(page: Page, address: str, context: int, start: int = 0, real: bool = False) -> Page:
    """The page, in a walk from the first `context` frames of an episode."""
    page.goto(address)
    page.set_checked("#real", real)
    page.fill("#context", str(context))
    page.click(f".starts button >> nth={start}")
    page.wait_for_selector("#play:not([hidden])")
    assert eventually(lambda: len(np.unique(picture(page))) > 10)
    return page


def frame_of(page: Page) -> int:
    return int(page.get_attribute("#strip", "aria-valuenow") or -1)


def wait_for_frame(page: Page, frame: int) -> None:
    """While frames stream, this one or a later one."""
    page.wait_for_function(
        "frame => { const now = Number(document.getElementById('strip').ariaValueNow);"
        " return document.getElementById('pause').disabled ? now === frame : now >= frame; }",
        arg=frame,
    )


def stands(page: Page) -> int:
    """The frame where frames have stopped coming: two may still be under way when the key is up."""
    expect(page.locator("#pause")).to_be_disabled()
    frame = -1
    while frame != (frame := frame_of(page)):
        page.wait_for_timeout(500)
    return frame


def tap(page: Page, code: str) -> None:
    """A key, down and up in one go: by `keyboard.press` it may be down for so long that it is a hold."""
    script = """code => { for (const type of ["keydown", "keyup"]) document.activeElement.dispatchEvent(
        new KeyboardEvent(type, { code, key: code, bubbles: true, cancelable: true })); }"""
    page.evaluate(script, code)


def picture(page: Page, canvas: str = "dream") -> np.ndarray:
    """uint8 [h, w, 3]"""
    script = """name => { const shown = document.getElementById(name);
        const copy = new OffscreenCanvas(shown.width, shown.height).getContext('2d', {willReadFrequently: true});
        copy.drawImage(shown, 0, 0);
        const { data } = copy.getImageData(0, 0, shown.width, shown.height);
        return [shown.height, btoa(String.fromCharCode(...data))]; }"""
    height, pixels = page.evaluate(script, canvas)
    return np.frombuffer(b64decode(pixels), np.uint8).reshape(height, -1, 4)[..., :3]


class Stage:
    """Stands for a server, inside the browser: hears what the page says, and says what it is told to."""

    def __init__(self, page: Page, **facts: Any) -> None:
        self.page = page
        self.heard: list[dict[str, Any]] = []
        self.socket: WebSocketRoute | None = None
        self.world = {
            **{"model": "stage", "parameters": 7, "size": 8, "fps": 10.0, "kind": "id", "labels": [], "vector": []},
            **{"actions": [], "settings": {"steps": 5, "guidance": 1.0, "solver": "euler"}, "solvers": ["euler"]},
            **{"guidable": False, "real": False, "window": 16, "starts": [], "version": "0"},
            **{"starts": [{"name": "one", "thumbnail": "/api/thumbnail/one.png", "frames": 30}]},
            **facts,
        }
        page.route("**/*", self._answer)
        page.route_web_socket(re.compile("/play"), self._open)
        page.goto("http://127.0.0.1:1/?token=secret")

    def begin(self) -> None:
        self.page.click(".starts button")
        self.page.wait_for_selector("#play:not([hidden])")
        self.heard.clear()

    def say(self, **message: Any) -> None:
        assert self.socket is not None
        self.socket.send(json.dumps(message))

    def show(self, frame: int, shade: int) -> None:
        assert self.socket is not None
        nothing = dict.fromkeys(("action", "at", "transformer_ms", "decode_ms", "wait_ms", "psnr"))
        header = json.dumps({"kind": "dream", "frame": frame, "branch": 0, "height": 8, "width": 8, **nothing}).encode()
        self.socket.send(struct.pack(">I", len(header)) + header + bytes([shade]) * 192)

    def actions(self) -> list[tuple[str, Any, Any]]:
        return [(said["type"], said["action"], said.get("on")) for said in self.heard if "action" in said]

    def hears(self, *expected: tuple[str, Any, Any]) -> bool:
        """Whether these are the actions that come, in time."""
        until = time.monotonic() + PATIENCE / 1000
        while self.actions() != list(expected) and time.monotonic() < until:
            self.page.wait_for_timeout(50)  # messages are only heard meanwhile
        return self.actions() == list(expected)

    def _answer(self, route: Route) -> None:
        path = urlsplit(route.request.url).path
        page = PAGE / ("index.html" if path == "/" else path[1:])
        if path.startswith("/api") and "token=secret" not in route.request.url:
            route.fulfill(status=403)
        elif path == "/api/world":
            route.fulfill(json=self.world)
        elif page.is_file():
            route.fulfill(body=page.read_bytes(), content_type=TYPES[page.suffix])
        else:
            route.fulfill(body=b"", content_type="image/png")

    def _open(self, route: WebSocketRoute) -> None:
        if "token=secret" in route.url:
            self.socket = route
        route.on_message(self._hear)

    def _hear(self, text: str | bytes) -> None:
        said = json.loads(text)
        self.heard.append(said)
        if said["type"] == "start":
            self.say(type="ready", session="s", frame=9, context=10, branch=0, real=False)


def named(*names: str) -> list[dict[str, Any]]:
    return [{"id": place, "name": name} for place, name in enumerate(names)]


def caps(page: Page) -> dict[str, list[str]]:
    return {
        key.locator(".act span").inner_text(): key.locator(".cap").all_inner_texts()
        for key in page.locator(".key").all()
    }
