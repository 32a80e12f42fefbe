"""The page of `nextframe watch`: of runs that go on, are finished, or were killed in the middle of a line."""

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nextframe.cli import run_command
from nextframe.errors import UserError
from nextframe.files import TEMPORARY
from nextframe.pages.charts import loss_curve, running_median
from nextframe.pages.watch import MOST_POINTS, thinned, titles, watch_page
from nextframe.web.address import listen
from nextframe.web.watching import Page, Watch


def logged(run: Path, lines: int, every: int = 20) -> Path:
    run.mkdir(parents=True)
    records = [
        {
            "step": every * n,
            "loss": 2 / n,
            "loss_at_0.1": 1 / n,
            "loss_at_0.9": 3 / n,
            "gradient_norm": 1.0,
            "seconds": n,
        }
        for n in range(1, lines + 1)
    ]
    records.append({"step": every * lines, "held_out_loss": 0.4321, "examine_seconds": 3.0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def captions(page: str) -> list[str]:
    return re.findall(r"<figcaption>(.*?)</figcaption>", page)


def test_pages_are_drawn_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What matplotlib is set to holds for all threads."""
    drawing, together = [0], [0]

    def page(runs: object, refreshed: bool) -> str:
        drawing[0] += 1
        time.sleep(0.05)
        together.append(drawing[0])
        drawing[0] -= 1
        return "page"

    monkeypatch.setattr("nextframe.web.watching.watch_page", page)
    with listen("127.0.0.1", 0) as listener, Watch([tmp_path], listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with ThreadPoolExecutor(4) as visitors:
            list(visitors.map(lambda _: urllib.request.urlopen(address).read(), range(8)))
        server.shutdown()
    assert max(together) == 1


def test_a_page_of_two_runs_of_which_one_was_killed(tmp_path: Path) -> None:
    first, second = logged(tmp_path / "first", 50), logged(tmp_path / "a<b", 7)
    with (second / "metrics.jsonl").open("a") as file:
        file.write('{"step": 160, "loss": 0.')
    page = watch_page([first, second], refreshed=False)
    assert "first" in page and "a&lt;b" in page and "a<b" not in page and "<script" not in page
    assert (
        "0.4321" in page
        and "1,000" in page
        and ">140<" in page
        and "160" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S)
    )
    shown = captions(page)
    assert [caption.split(":")[0].split(",")[0] for caption in shown] == [
        "Loss",
        "Loss by noise level",
        "Gradient norm",
    ]
    assert page.count("<svg") == 3
    # Both runs in one chart, each in its colour.
    assert all(colour in chart for chart in page.split("<svg")[1:] for colour in ("#149e8b", "#d9822b"))


def test_the_newest_clips_are_shown(tmp_path: Path) -> None:
    run = logged(tmp_path / "run", 3)
    (run / "samples").mkdir()
    for step in (20, 60):
        for number in range(3):
            (run / "samples" / f"{step:08d}-{number}.mp4").write_bytes(b"clip")
    (run / "samples" / f"{TEMPORARY}x-00000080-0.mp4").write_bytes(b"cl")  # is being written
    page = watch_page([run], refreshed=False)
    assert page.count("data:video/mp4") == 3 and "run, step 60" in page and "step 20" not in page


def test_served_to_this_machine_alone_and_always_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = logged(tmp_path / "run", 3)
    with listen("127.0.0.1", 0) as listener:
        server = Watch([run], listener)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        before = urllib.request.urlopen(address).read().decode()
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 80, "loss": 0.1234}\n')
        after = urllib.request.urlopen(address).read().decode()
        assert "0.1234" not in before and "0.1234" in after and "setInterval" in after
        for request, status in (
            (urllib.request.Request(address, headers={"host": "elsewhere.example"}), 403),
            (urllib.request.Request(address, headers={"origin": "http://elsewhere.example"}), 403),
            (urllib.request.Request(address + "metrics.jsonl"), 404),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)
            assert refused.value.code == status
        again = urllib.request.Request(address, headers={"origin": address[:-1]})
        assert urllib.request.urlopen(again).status == 200
        monkeypatch.setattr(Page, "timeout", 0.2)
        with socket.create_connection(listener.getsockname()) as silent:
            assert silent.recv(1) == b""  # who asks for nothing holds no thread
        server.shutdown()
        thread.join()


def test_a_name_that_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    run = logged(tmp_path / "run\udcff", 3)
    with listen("127.0.0.1", 0) as listener:
        server = Watch([run], listener)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = urllib.request.urlopen(f"http://127.0.0.1:{listener.getsockname()[1]}/").read().decode()
        assert "run?" in page and "<svg" in page
        server.shutdown()


def test_a_step_that_is_none_is_left_out(tmp_path: Path) -> None:
    run = logged(tmp_path / "run", 3)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1e308, "loss": 0.5}\n')
    assert "<svg" in watch_page([run], refreshed=False)


def test_a_run_is_waited_for_until_its_first_line(tmp_path: Path) -> None:
    for name in ("begun", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "begun/config.yaml").write_text("{}")
    (tmp_path / "empty/metrics.jsonl").write_text("")
    page = watch_page([tmp_path / "begun", tmp_path / "empty", logged(tmp_path / "run", 3)], refreshed=True)
    assert page.count("none yet") == 2 and "<svg" in page and '<section id="curves">' in page
    alone = watch_page([tmp_path / "begun"], refreshed=True)
    assert "none yet" in alone and "<svg" not in alone and '<section id="curves">' in alone
    with pytest.raises(UserError, match="begun has no records yet"):  # a report promises a curve
        loss_curve(tmp_path / "begun")


def test_what_cannot_be_watched_is_one_line(tmp_path: Path) -> None:
    for words, message in (
        ([], "name a run"),
        ([str(tmp_path / "nowhere")], "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            run_command(["watch", *words, "--out", str(tmp_path / "page.html")])
    assert not (tmp_path / "page.html").exists()
    run_command(["watch", str(logged(tmp_path / "run", 2)), "--out", str(tmp_path / "page.html")])
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_long_logs_are_thinned_and_equal_names_told_apart(tmp_path: Path) -> None:
    import numpy as np

    points = np.stack([np.arange(10_000), np.ones(10_000)], axis=1)
    assert thinned(points).shape == (MOST_POINTS, 2) and (thinned(points)[:, 1] == 1).all()
    assert titles([Path("a/run"), Path("b/run")]) == ["a/run", "b/run"] and titles([Path("a/run")]) == ["run"]


def test_a_running_median_reaches_as_far_to_either_side() -> None:
    assert running_median(np.array([5.0, 1, 9, 2]), 1) == [3, 5, 2, 5.5]
