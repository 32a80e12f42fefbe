"""The parts of the server of `nextframe play`, one by one."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import SIZE, tiny_episode, tiny_episodes, tiny_run
from visiting import tiny_stage

from nextframe.runs import load
from nextframe.web.conversation import Rate
from nextframe.web.history import History, Step
from nextframe.web.messages import Change, MalformedError, Repeat, StartMessage
from nextframe.web.outbox import Outbox
from nextframe.web.reality import Reality
from nextframe.web.starts import Library
from nextframe.web.visitors import Visitors
from nextframe.web.wants import Wants


def test_what_a_stream_has_missed_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("nextframe.web.wants.time", clock)
    wants = Wants(10.0)
    wants.hear(Repeat(100, action=1))
    for later in (0.0, 5.0):  # somebody was slow
        clock.now += later
        assert sum(wants._take() is not None for _ in range(20)) == 1


def test_settings_that_come_one_by_one_are_all_taken() -> None:
    wants = Wants(10.0)
    for change in (Change(3, None, None), Change(None, 2.0, None), Change(5, None, "heun")):
        wants.hear(change)
    assert asyncio.run(wants.next()) == Change(5, 2.0, "heun")


def test_a_newer_picture_takes_the_place_of_one_not_sent() -> None:
    async def sent() -> list[bytes]:
        outbox, seen = Outbox(), []
        outbox.show(b"one")
        outbox.show(b"two")
        outbox.add(b"its truth")

        async def text(said: str) -> None: ...
        async def data(picture: bytes) -> None:
            seen.append(picture)

        delivering = asyncio.create_task(outbox.deliver(text, data))
        await outbox.sent()
        delivering.cancel()
        return seen

    assert asyncio.run(sent()) == [b"two", b"its truth"]


def test_who_was_silent_may_not_say_more_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("nextframe.web.conversation.time", clock)
    rate = Rate(3)
    clock.now = 60.0
    for _ in range(3):
        rate.count()
    with pytest.raises(MalformedError, match="more than 3 messages a second"):
        rate.count()


def test_what_is_shown_ends_where_any_parent_left_the_clip() -> None:
    history = History([Step(None, place) for place in range(5)])
    for place in range(5, 9):
        history.append(Step(0, place))
    history.seek(6)
    history.append(Step(0, 9))  # leaves behind the clip
    assert history.shown == 5
    history.seek(2)
    history.append(Step(0, 10))
    history.append(Step(0, 11))
    history.seek(3)
    history.append(Step(0, 12))  # leaves a branch that has left within the clip
    assert history.shown == 3


def test_an_engine_that_was_ended_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Process:
        stdin, stdout = SimpleNamespace(close=lambda: None), SimpleNamespace(close=lambda: None)

        def __init__(self, *_: object, **__: object) -> None:
            started.append(self)

        def wait(self, seconds: float) -> None: ...

    monkeypatch.setattr("nextframe.web.reality.subprocess.Popen", Process)
    reality = Reality({})
    for _ in range(2):
        reality.start()
        reality.close()
    assert len(started) == 2


@pytest.mark.parametrize("limit", ["number", "bytes"])
def test_who_left_longest_ago_is_given_up_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    clip = 3 * SIZE**2 * 6  # bytes of a film of so many frames
    monkeypatch.setattr("nextframe.web.visitors.MOST_KEPT", 2 if limit == "number" else 64)
    monkeypatch.setattr("nextframe.web.visitors.KEPT_BYTES", 2**40 if limit == "number" else 2 * clip)

    async def kept() -> list[int]:
        visitors, there = Visitors(tiny_stage(tmp_path), 9), []
        for _ in range(3):
            outbox = Outbox()
            there.append((await visitors.begin(StartMessage("test_0", None, 6, False), outbox, print), outbox))
        for place in (1, 0, 2):
            await visitors.leave(*there[place])
        names = list(visitors.by_name)
        await visitors.close()
        return [place for place, (visitor, _) in enumerate(there) if visitor.name in names]

    assert asyncio.run(kept()) == [0, 2]


def test_validation_is_held_out_too(tmp_path: Path) -> None:
    dataset = tiny_episodes(tmp_path / "data", count=1, split="train")
    dataset.add("shown", "validation", tiny_episode(9, 10), {})
    dataset.save()
    assert list(Library(load(tiny_run(tmp_path / "run")), dataset).episodes) == ["shown"]
