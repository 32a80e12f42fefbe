"""The page of `nextframe play` in a browser: against the server with a tiny model, and, for what such a model does not
have, against messages written here."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
import tiny
import uvicorn
from browsing import PATIENCE, Stage, begun, caps, frame_of, named, picture, stands, tap, wait_for_frame
from PIL import Image
from playwright.sync_api import Browser, Page, WebSocketRoute, expect, sync_playwright
from tiny import TOKENIZER, eventually, tiny_run

from nextframe.options import OWN_SETTINGS
from nextframe.pages.watch import REFRESH_SECONDS
from nextframe.protocol import Protocol
from nextframe.web.address import LOOPBACK, listen
from nextframe.web.opening import open_model
from nextframe.web.server import application
from nextframe.web.watching import Watch
from nextframe.worlds.maze.record import record_maze
from nextframe.worlds.maze.settings import MazeSettings

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()  # noqa: SIM905 - a list of words
SIZE = 64
CONTEXT = 12

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt-get install chromium")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that plays a model of random weights, in mazes."""
    folder = tmp_path_factory.mktemp("play")
    record_maze(folder / "data", 2, split="test", settings=MazeSettings(frames=30, size=SIZE), workers=1)
    deep = {"encoder_channels": (8,) * 5, "encoder_layers": (0, 1, 1, 1, 1)}
    deep |= {"decoder_channels": (8,) * 5, "decoder_layers": (0, 1, 1, 1, 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "TOKENIZER", replace(TOKENIZER, frame_size=SIZE, **deep))
        tiny_run(folder / "run")
    sample = OWN_SETTINGS.settings(Protocol(), folder / "run")
    stage = open_model(folder / "run", folder / "data", sample, real=True, device="cpu")
    ready = threading.Event()
    app = application(stage, sessions=8, hosts=LOOPBACK, ready=ready.set)
    with listen("127.0.0.1", 0) as listener:
        running = uvicorn.Server(uvicorn.Config(app, ws="websockets-sansio", log_level="warning"))
        thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
        thread.start()
        assert ready.wait(20)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        running.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page with a memory of its own. Nothing may go wrong in it, nor ask another host for anything."""
    wrong: list[str] = []
    hosts: set[str] = set()
    contexts = []

    def open_page(**options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or ""))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong
    assert hosts <= {"127.0.0.1", ""}


# ---- with the server


def test_walk(visit: Callable[..., Page], server: str) -> None:
    page = begun(visit(), server, CONTEXT, real=True)
    assert frame_of(page) == CONTEXT - 1
    before = picture(page)
    assert len(np.unique(before)) > 10
    assert np.array_equal(before, picture(page, "truth"))  # of what it was shown
    tap(page, "ArrowUp")
    wait_for_frame(page, CONTEXT)
    tap(page, "KeyA")
    wait_for_frame(page, CONTEXT + 1)
    assert not np.array_equal(before, picture(page))
    expect(page.locator("#psnr")).to_have_text(re.compile(r"\d+\.\d dB"))
    assert not np.array_equal(picture(page), picture(page, "truth"))
    assert (page.get_attribute("#curve-line", "d") or "").startswith("M")
    expect(page.locator("#caption")).to_have_text(f"turn left, frame {CONTEXT + 1}")
    for number in ("#latency", "#transformer", "#decoder"):
        expect(page.locator(number)).to_have_text(re.compile(r"^[\d.]+ ms$"))


def test_hold(visit: Callable[..., Page], server: str) -> None:
    page = begun(visit(), server, CONTEXT)
    page.keyboard.down("d")
    expect(page.locator(".right .act")).to_have_class("act pressed")
    wait_for_frame(page, CONTEXT + 6)
    page.keyboard.up("d")
    expect(page.locator(".right .act")).to_have_class("act")
    stands(page)
    page.keyboard.down("w")
    wait_for_frame(page, frame_of(page) + 4)
    page.evaluate("dispatchEvent(new Event('blur'))")
    stands(page)
    page.keyboard.up("w")
    page.fill("#repeat-frames", "5")
    last = frame_of(page) + 5
    page.click("#repeat button")
    wait_for_frame(page, last)
    assert stands(page) == last


def test_scrub_and_branch(visit: Callable[..., Page], server: str) -> None:
    page = begun(visit(), server, CONTEXT)
    pictures = []
    for step in range(5):
        tap(page, "Space" if step % 2 else "ArrowRight")
        wait_for_frame(page, CONTEXT + step)
        pictures.append(picture(page))
    for _ in range(3):
        page.click("#back")
    wait_for_frame(page, CONTEXT + 1)
    expect(page.locator("#place")).to_contain_text("as a new branch")
    assert eventually(lambda: np.array_equal(picture(page), pictures[1]))
    tap(page, "KeyS")
    wait_for_frame(page, CONTEXT + 2)
    expect(page.locator("#branches button")).to_have_count(2)
    expect(page.locator("#branches [aria-pressed=true]")).to_contain_text(f"From {CONTEXT + 2}")
    assert not np.array_equal(picture(page), pictures[2])
    page.click("#branches button >> nth=0")
    wait_for_frame(page, CONTEXT + 4)
    assert eventually(lambda: np.array_equal(picture(page), pictures[4]))
    box = page.locator("#strip").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, box["y"] + 20, steps=8)
    page.mouse.up()
    wait_for_frame(page, 0)
    tap(page, "ArrowLeft")  # after the drag the arrows are the world's again
    wait_for_frame(page, 1)
    expect(page.locator("#branches button")).to_have_count(3)
    page.click("#branches button >> nth=0")
    wait_for_frame(page, CONTEXT + 4)
    page.click("#home")
    wait_for_frame(page, CONTEXT - 1)
    page.focus("#strip")
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    tap(page, "ArrowLeft")  # with the strip in focus the arrows drag it
    wait_for_frame(page, CONTEXT - 2)


def test_settings(visit: Callable[..., Page], server: str) -> None:
    page = begun(visit(), server, CONTEXT)
    expect(page.locator("#steps")).to_have_value("2")
    page.fill("#steps", "4")
    page.press("#steps", "Enter")
    tap(page, "ArrowUp")
    wait_for_frame(page, CONTEXT)
    expect(page.locator("#steps")).to_have_value("4")
    page.fill("#steps", "0")  # is not sent: the server would end the session
    page.press("#steps", "Enter")
    page.locator("#steps").blur()
    tap(page, "ArrowUp")
    wait_for_frame(page, CONTEXT + 1)


def test_settings_by_keyboard(visit: Callable[..., Page], server: str) -> None:
    page = begun(visit(), server, CONTEXT)
    page.focus("#steps")
    page.keyboard.press("Control+A")
    page.keyboard.type("4")
    page.keyboard.press("Tab")
    expect(page.locator("#steps")).not_to_be_focused()
    expect(page.locator("#solver")).to_be_focused()
    page.evaluate("document.activeElement.blur()")
    tap(page, "ArrowUp")
    wait_for_frame(page, CONTEXT)
    expect(page.locator("#steps")).to_have_value("4")


def test_a_cap_waits_for_a_key_of_its_own_alone(visit: Callable[..., Page], server: str) -> None:
    page = begun(visit(), server, CONTEXT)
    cap = page.locator(".cap").first
    before = cap.inner_text()
    leaving = [lambda: page.click("#steps"), *(partial(page.keyboard.press, key) for key in ("Tab", "Escape"))]
    for leave in leaving:
        cap.click()
        expect(cap).to_have_text("press a key")
        leave()
        expect(cap).to_have_text(before)
    cap.click()
    page.keyboard.press("Shift")
    expect(cap).to_have_text("press a key")
    page.keyboard.press("k")
    expect(page.locator(".cap").first).to_have_text("K")


def test_save(visit: Callable[..., Page], server: str, tmp_path: Path) -> None:
    page = begun(visit(), server, CONTEXT)
    for step in range(3):
        tap(page, "ArrowUp")
        wait_for_frame(page, CONTEXT + step)
    for kind in ("mp4", "npz", "episode"):
        with page.expect_download() as download:
            page.click(f"[data-save={kind}]")
        download.value.save_as(tmp_path / kind)
    with av.open(str(tmp_path / "mp4")) as video:
        assert len(list(video.decode(video=0))) == CONTEXT + 3
    with np.load(tmp_path / "npz") as numbers:
        assert any(array.shape == (CONTEXT + 3, SIZE, SIZE, 3) for array in numbers.values())
    assert (tmp_path / "episode").stat().st_size > 1000


def test_two_tabs(visit: Callable[..., Page], server: str) -> None:
    one, other = begun(visit(), server, CONTEXT), begun(visit(), server, CONTEXT, start=1)
    one.keyboard.down("ArrowUp")
    tap(other, "ArrowLeft")
    wait_for_frame(other, CONTEXT)
    wait_for_frame(one, CONTEXT + 3)
    one.keyboard.up("ArrowUp")
    assert stands(other) == CONTEXT
    assert not np.array_equal(picture(one), picture(other))


def test_dropped_connection(visit: Callable[..., Page], server: str) -> None:
    page = visit()
    sockets: list[WebSocketRoute] = []

    def pass_on(route: WebSocketRoute) -> None:
        sockets.append(route)
        route.connect_to_server()

    page.route_web_socket(re.compile("/play"), pass_on)
    begun(page, server, CONTEXT)
    tap(page, "ArrowUp")
    wait_for_frame(page, CONTEXT)
    seen = picture(page)
    sockets[0].close(code=1012)
    page.wait_for_function("document.getElementById('line').textContent.includes('dropped')")  # for half a second
    expect(page.locator("#line")).to_be_hidden()
    assert len(sockets) == 2
    assert np.array_equal(picture(page), seen)
    tap(page, "ArrowUp")
    wait_for_frame(page, CONTEXT + 1)
    page.reload()  # is no end either
    page.wait_for_selector("#play:not([hidden])")
    wait_for_frame(page, CONTEXT + 1)


GAMEPAD = """
    window.pad = { axes: [0, 0], buttons: Array.from({ length: 16 }, () => ({ pressed: false })) };
    navigator.getGamepads = () => [null, window.pad];
"""


def test_gamepad(visit: Callable[..., Page], server: str) -> None:
    page = visit()
    page.add_init_script(GAMEPAD)
    begun(page, server, CONTEXT)
    page.evaluate("dispatchEvent(new Event('gamepadconnected'))")
    page.evaluate("pad.axes[1] = -1")  # the stick, forward
    expect(page.locator(".up .act")).to_have_class("act pressed")
    wait_for_frame(page, CONTEXT + 2)
    page.evaluate("pad.axes[1] = 0")
    expect(page.locator(".up .act")).to_have_class("act")
    last = stands(page)
    page.evaluate("pad.buttons[15].pressed = true")  # the cross, right
    wait_for_frame(page, last + 1)
    page.evaluate("pad.buttons[15].pressed = false")
    stands(page)
    expect(page.locator("#caption")).to_contain_text("turn right")


def test_the_curve_is_there_again(visit: Callable[..., Page], server: str) -> None:
    page = begun(visit(), server, CONTEXT, real=True)
    for step in range(3):
        tap(page, "ArrowUp")
        wait_for_frame(page, CONTEXT + step)
    expect(page.locator("#psnr")).to_have_text(re.compile(r"\d+\.\d dB"))
    shown, curve = page.inner_text("#psnr"), page.get_attribute("#curve-line", "d")
    page.reload()
    page.wait_for_selector("#play:not([hidden])")
    expect(page.locator("#psnr")).to_have_text(shown)
    assert page.get_attribute("#curve-line", "d") == curve


def test_phone(visit: Callable[..., Page], server: str) -> None:
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme="dark")
    begun(page, server, CONTEXT)
    page.tap(".left .act")
    assert eventually(lambda: frame_of(page) >= CONTEXT)
    assert stands(page) <= CONTEXT + 1  # a finger may be down for a second frame
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    box = page.locator(".pad").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 740  # within the reach of a thumb, without scrolling


def test_pictures_of_ones_own(visit: Callable[..., Page], server: str, tmp_path: Path) -> None:
    page = visit()
    page.goto(server)
    Image.effect_noise((50, 40), 60).convert("RGB").save(tmp_path / "mine.png")
    page.wait_for_selector("#choose:not([hidden])")  # before that nobody listens
    page.set_input_files("#file", tmp_path / "mine.png")
    page.wait_for_selector("#play:not([hidden])")
    assert eventually(lambda: len(np.unique(picture(page))) > 10)
    assert page.is_hidden("#truth-figure")
    tap(page, "ArrowUp")
    wait_for_frame(page, 1)


# ---- with messages written here


def test_tap_hold_and_let_go(visit: Callable[..., Page]) -> None:
    page = visit()
    stage = Stage(page, actions=named("noop", "forward", "turn_left"))
    stage.begin()
    press, let_go = page.keyboard.down, page.keyboard.up
    tap(page, "KeyW")
    page.wait_for_timeout(250)
    act, up, left = ("act", 1, None), ("hold", 1, True), ("hold", 2, True)
    assert stage.hears(act)
    stage.heard.clear()
    press("ArrowUp")
    press("ArrowUp")  # the system's own repetition
    assert stage.hears(act, up)
    press("ArrowLeft")  # the newest key counts
    let_go("ArrowLeft")
    let_go("ArrowUp")
    assert stage.hears(act, up, ("hold", 1, False), left, ("hold", 2, False), up, ("hold", 1, False))
    assert all(isinstance(said["at"], float | int) for said in stage.heard)


def test_keys_by_name_and_by_choice(visit: Callable[..., Page]) -> None:
    page = visit()
    names = ("NOOP", "FIRE", "move_forward", "turn_left", "turn_right", "left", "right", "UPFIRE")
    stage = Stage(page, actions=named(*names))
    stage.begin()
    usual = caps(page)
    assert usual == {
        "NOOP": ["space"],
        "FIRE": ["1"],
        "move forward": ["↑", "W"],
        "turn left": ["←"],
        "turn right": ["→"],
        "left": ["A"],
        "right": ["D"],
        "UPFIRE": ["2"],
    }
    page.click(".key:nth-child(2) .cap")
    page.keyboard.press("w")
    chosen = {**usual, "FIRE": ["W"], "move forward": ["↑"]}
    assert caps(page) == chosen
    assert stage.actions() == []
    tap(page, "KeyW")
    assert stage.hears(("act", 1, None))
    page.evaluate("sessionStorage.clear()")
    page.reload()
    stage.begin()
    assert caps(page) == chosen
    page.click("#keys-reset")
    assert caps(page) == usual
    page.keyboard.press("?")
    expect(page.locator("#help-keys")).to_contain_text("UPFIRE")
    page.keyboard.press("w")  # not the world's while help is open
    page.keyboard.press("Escape")
    assert stage.actions() == []


@pytest.mark.parametrize(
    ("facts", "key", "action"),
    [
        ({"kind": "vector", "vector": ["turn", "gas"], "ranges": [[-1, 1], [-1, 40]]}, "ArrowUp", [0, 40]),
        ({"kind": "vector", "vector": ["turn", "gas"], "ranges": [[-1, 1], [2, 40]]}, "ArrowLeft", [-1, 2]),
        ({"kind": "vector", "vector": ["turn", "gas"], "ranges": [[-1, 1], [-1, 1]]}, "Space", [0.5, 0]),
        ({"kind": "label", "labels": ["running"]}, "Space", None),
        ({"kind": "none", "solvers": [], "settings": None}, "ArrowRight", None),
    ],
)
def test_other_kinds_of_action(visit: Callable[..., Page], facts: dict[str, Any], key: str, action: Any) -> None:
    page = visit()
    stage = Stage(page, **facts)
    assert page.eval_on_selector("#steered", "part => part.hidden") == (action is None)
    stage.begin()
    if key == "Space" and "vector" in facts:
        page.fill("#sliders input >> nth=0", "0.5")
    tap(page, key)
    assert stage.hears(("act", action, None))


def test_frames_never_wait_in_line(visit: Callable[..., Page]) -> None:
    """A page that could not draw for a while goes on with the newest frame."""
    page = visit()
    stage = Stage(page, actions=named("noop"))
    stage.begin()
    page.evaluate("""() => {
        const paint = CanvasRenderingContext2D.prototype.putImageData;
        window.painted = 0;
        CanvasRenderingContext2D.prototype.putImageData = function (...all) { painted++; paint.apply(this, all); };
        setTimeout(() => { const until = performance.now() + 3000; while (performance.now() < until); }, 0);
    }""")
    for frame in range(100):
        stage.show(10 + frame, frame)
    wait_for_frame(page, 109)
    assert picture(page).max() == 99
    assert page.evaluate("painted") < 20


def test_a_server_that_is_full(visit: Callable[..., Page]) -> None:
    page = visit()
    stage = Stage(page, actions=named("noop"))
    stage.begin()
    stage.say(type="notice", text="the world ends here")
    expect(page.locator("#line")).to_have_text("the world ends here")
    stage.say(type="error", text="<b>all sessions</b> are taken")
    assert stage.socket is not None
    stage.socket.close(code=1008)
    expect(page.locator("#choose")).to_be_visible()
    expect(page.locator("#line")).to_have_text("<b>all sessions</b> are taken")


def test_everything_has_a_name(visit: Callable[..., Page]) -> None:
    page = visit()
    stage = Stage(page, actions=named("noop", "forward"), guidable=True)
    stage.begin()
    for element in page.locator("button:visible, input:visible, select:visible, [role=slider]").all():
        name = element.evaluate(
            "one => one.ariaLabel || one.innerText || [...one.labels ?? []].map((l) => l.innerText).join()"
        )
        assert name.strip(), element.evaluate("one => one.outerHTML")


def test_a_server_that_hangs_is_told_and_waited_for(visit: Callable[..., Page]) -> None:
    page = visit()
    page.clock.install()
    stage = Stage(page)
    stage.begin()
    page.clock.run_for(10_000)  # nobody answers the pings
    expect(page.locator("#line")).to_have_text("The server does not answer. Waiting for it …")
    stage.say(type="pong", at=0)
    expect(page.locator("#line")).to_be_hidden()
    page.clock.run_for(10_000)
    expect(page.locator("#line")).to_be_visible()
    page.click("#again")  # nobody is waited for any more
    expect(page.locator("#line")).to_be_hidden()


def test_help_begins_with_its_beginning_on_a_phone(visit: Callable[..., Page]) -> None:
    page = visit(viewport={"width": 360, "height": 420})
    stage = Stage(page)
    stage.begin()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    assert page.evaluate("[help.scrollTop, help.scrollHeight > help.clientHeight]") == [0, True]


@pytest.mark.parametrize("frames", ["0", "", "2.5", "2001"])
def test_a_context_that_is_none_begins_nothing(visit: Callable[..., Page], frames: str) -> None:
    stage = Stage(visit())
    stage.page.fill("#context", frames)
    stage.page.click(".starts button")
    stage.page.wait_for_timeout(100)
    assert not stage.heard
    stage.page.fill("#context", "7")
    stage.begin()


def test_watch_waits_for_the_first_line_and_says_when_nobody_answers(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("{}")
    page = browser.new_page()
    page.clock.install()
    with listen("127.0.0.1", 0) as listener:
        server = Watch([tmp_path / "run"], listener)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        expect(page.locator("#figures")).to_contain_text("none yet")
        (tmp_path / "run/metrics.jsonl").write_text('{"step": 20, "loss": 0.1234}\n')
        page.clock.run_for(1000 * REFRESH_SECONDS)
        expect(page.locator("#figures")).to_contain_text("0.1234")
        expect(page.locator("#silent")).to_be_hidden()
        server.shutdown()
        server.server_close()
    page.clock.run_for(1000 * REFRESH_SECONDS)
    expect(page.locator("#silent")).to_contain_text("Nobody answers any more")
    expect(page.locator("#figures")).to_contain_text("0.1234")
    assert page.title().startswith("(no answer) ")
    page.close()
