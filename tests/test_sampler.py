"""The cache changes nothing, the batch changes nothing, and time can be turned back."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations
from typing import Literal, cast

import pytest
import torch
from conftest import COMPASS, LONG, SHORT, random_transformer

from nextframe.architecture import TransformerConfig
from nextframe.config import SampleConfig
from nextframe.errors import UserError
from nextframe.graphs import FrameGraphs, _Place, _Recording
from nextframe.sampler import at_sampling, frame_noise, uncached_frame
from nextframe.session import Session, rollout, step_together

TOLERANCE = {"atol": 1e-5, "rtol": 0}
SHORT_ACTIONS = replace(SHORT, condition="action", classes=3)
DECAYING = replace(LONG, temporal_decay=0.2)
BOUNDED = replace(LONG, memory=7)


def clips(config: TransformerConfig, batch: int, frames: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, frames, 3, 4, 4, generator=generator)
    conditions = torch.randint(0, 3, (batch, 16), generator=generator) if config.condition != "none" else None
    return latents, conditions


def generate(
    config: TransformerConfig, context: torch.Tensor, conditions: torch.Tensor | None, sample: SampleConfig, frames: int
) -> torch.Tensor:
    start = context.shape[1]
    past, future = (None, None) if conditions is None else (conditions[:, :start], conditions[:, start:])
    session = Session(random_transformer(config), context, past, start + frames, sample)
    for _ in rollout(session, future, frames):
        pass
    return session.latents


@pytest.mark.parametrize("context", [0, 1, 3, 4, 7], ids=lambda frames: f"context{frames}")
@pytest.mark.parametrize(
    ("config", "guidance"),
    [
        (SHORT, 1.0),
        *((config, guidance) for config in (SHORT_ACTIONS, LONG, DECAYING, COMPASS) for guidance in (1.0, 1.5)),
    ],
)
def test_cached_is_uncached(config: TransformerConfig, context: int, guidance: float) -> None:
    """Across the moment the window (4 frames) slides: contexts before it, at it and after it, 5 frames each."""
    latents, conditions = clips(config, 2, context)
    sample = SampleConfig(steps=3, guidance=guidance)
    cached = generate(config, latents, conditions, sample, 5)
    torch.manual_seed(0)  # the same random weights
    model = random_transformer(config)
    plain = latents
    for frame in range(context, context + 5):
        so_far = None if conditions is None else conditions[:, : frame + 1]
        plain = torch.cat([plain, uncached_frame(model, plain, so_far, sample, [0, 1])[:, None]], dim=1)
    torch.testing.assert_close(cached, plain, **TOLERANCE)


def test_one_at_a_time_is_eight_at_once() -> None:
    latents, conditions = clips(LONG, 8, 3)
    assert conditions is not None
    sample = SampleConfig(steps=3, guidance=1.5)
    together = generate(LONG, latents, conditions, sample, 4)
    for index in (0, 5):
        torch.manual_seed(0)
        part = slice(index, index + 1)
        alone = generate(LONG, latents[part], conditions[part], SampleConfig(3, 1.5, seed=index), 4)
        torch.testing.assert_close(alone, together[part], **TOLERANCE)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("slide", [1, 3])
@pytest.mark.parametrize("config", [SHORT_ACTIONS, LONG, DECAYING, COMPASS], ids=["short", "long", "decay", "compass"])
def test_stepped_together_is_stepped_alone(config: TransformerConfig, slide: int, guidance: float) -> None:
    """Sessions of other lengths, of which one is a batch of two, one starts from nothing, and one joins late."""
    if slide > 1 and config.coarse_patch is None:
        pytest.skip("a short model has no window that slides")
    sample = SampleConfig(steps=3, guidance=guidance, slide=slide)
    model, starts = random_transformer(config), {"empty": (1, 0), "pair": (2, 3), "long": (1, 9), "late": (1, 5)}

    def begun() -> dict[str, tuple[Session, torch.Tensor]]:
        sessions = {}
        for number, (name, (batch, frames)) in enumerate(starts.items()):
            latents, conditions = clips(config, batch, frames)
            assert conditions is not None
            own = replace(sample, seed=10 * number)
            sessions[name] = (Session(model, latents, conditions[:, :frames], 16, own), conditions)
        return sessions

    alone, together = begun(), begun()
    for round in range(6):
        names = [name for name in together if name != "late" or round > 2]
        told = [conditions[:, session.frames] for session, conditions in (together[name] for name in names)]
        step_together([together[name][0] for name in names], told)
        for name in names:
            session, conditions = alone[name]
            session.step(conditions[:, session.frames])
    for name in starts:
        torch.testing.assert_close(together[name][0].latents, alone[name][0].latents, **TOLERANCE)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("slide", [1, 3])
@pytest.mark.parametrize("config", [SHORT, SHORT_ACTIONS, LONG, DECAYING, COMPASS, BOUNDED])
def test_a_frame_of_fixed_shape_is_the_frame(
    config: TransformerConfig,
    slide: int,
    guidance: float,
    solver: Literal["euler", "heun"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a GPU would record and replay: over the moments where the window slides, the number of keys grows by a
    step, time is turned back, the session grows, and something has been read ahead."""
    if (slide > 1 and config.coarse_patch is None) or (guidance != 1 and config.condition == "none"):
        pytest.skip("no window that slides, or nothing to follow")
    monkeypatch.setattr("nextframe.graphs.KEYS", 8)
    latents, conditions = clips(config, 2, 3)
    model, sample = random_transformer(config), SampleConfig(steps=3, guidance=guidance, slide=slide, solver=solver)
    past = None if conditions is None else conditions[:, :3]
    fixed, plain = (Session(model, latents, past, 9, replace(sample, graphs=graphs)) for graphs in ("on", "off"))

    def step() -> None:
        for session in (fixed, plain):
            session.step(None if conditions is None else conditions[:, session.frames])

    for _ in range(6):
        step()
    for session in (fixed, plain):
        session.rewind(7)
        session.grow(14)
        session.read_ahead()
    for _ in range(7):
        step()
    torch.testing.assert_close(fixed.latents, plain.latents, **TOLERANCE)


class Replaying:
    """A recording that computes anew where a GPU would replay."""

    def __init__(self, recording: _Recording) -> None:
        self.recording = recording

    def replay(self) -> None:
        self.recording.made = self.recording.compute()


class ReplayingAnother(Replaying):
    def replay(self) -> None:
        self.recording.made = 1.1 * self.recording.compute()


def refusing(recording: _Recording) -> None:
    raise RuntimeError("not permitted when stream is capturing\nand so on")


@pytest.mark.parametrize(
    ("graph", "reason"),
    [(Replaying, ""), (ReplayingAnother, "replayed, it differs by 10%"), (refusing, "stream is capturing)")],
    ids=["records", "records another", "refuses"],
)
def test_a_gpu_that_cannot_record_says_so_and_goes_on_without(
    graph: Callable[[_Recording], Replaying | None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Unless recordings are asked for: then it fails."""

    def forget(graphs: FrameGraphs) -> None:
        graphs._recordings, graphs._place = {}, _Place(None, cast("torch.cuda.Stream", None))

    monkeypatch.setattr(FrameGraphs, "given_up", False)
    monkeypatch.setattr(FrameGraphs, "forget", forget)
    monkeypatch.setattr(_Recording, "captured", lambda recording, place: graph(recording))
    latents, conditions = clips(LONG, 2, 3)
    assert conditions is not None
    model, sample = random_transformer(LONG), SampleConfig(steps=3, graphs="off")
    plain, strict, session = (
        Session(model, latents, conditions[:, :3], 12, replace(sample, graphs=graphs))
        for graphs in ("off", "on", "auto")
    )

    def walked(session: Session) -> torch.Tensor:
        while session.frames < 12:
            session.step(conditions[:, session.frames])
        return session.latents

    with pytest.raises(UserError, match=r"could not record .* set graphs to off") if reason else nullcontext():
        torch.testing.assert_close(walked(strict), walked(plain), **TOLERANCE)
    monkeypatch.setattr(FrameGraphs, "replays", property(lambda self: not FrameGraphs.given_up))
    torch.testing.assert_close(walked(session), walked(plain), **TOLERANCE)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == bool(reason) == FrameGraphs.given_up
    assert all(reason in line and "going on without" in line for line in said)


@pytest.mark.parametrize("slide", [1, 3, 4])
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_reading_ahead_changes_nothing_but_when(slide: int, guidance: float) -> None:
    latents, conditions = clips(LONG, 2, 3)
    assert conditions is not None
    sample, model = SampleConfig(steps=2, guidance=guidance, slide=slide), random_transformer(LONG)
    plain, ahead = (Session(model, latents, conditions[:, :3], 12, sample) for _ in range(2))
    passes = []
    for frame in range(3, 12):
        ahead.read_ahead()
        top = ahead.cache.layout.tokens
        ahead.step(conditions[:, frame])
        passes.append(ahead.cache.layout.tokens == top)
        plain.step(conditions[:, frame])
    torch.testing.assert_close(ahead.latents, plain.latents, **TOLERANCE)
    assert sum(passes) == (9 if slide < 4 else 7)  # where the whole window is coarse, nothing is read ahead


def test_only_sessions_of_one_kind_are_stepped_together() -> None:
    latents, conditions = clips(LONG, 1, 2)
    assert conditions is not None
    model = random_transformer(LONG)
    sessions = [Session(model, latents, conditions[:, :2], 8, SampleConfig(steps=steps)) for steps in (2, 3)]
    with pytest.raises(ValueError, match="equal settings"):
        step_together(sessions, [conditions[:, 2]] * 2)


@pytest.mark.parametrize("back_to", [2, 5, 8])
def test_rewinding_takes_the_same_way_again(back_to: int) -> None:
    latents, conditions = clips(LONG, 1, 2)
    assert conditions is not None
    session = Session(random_transformer(LONG), latents, conditions[:, :2], 12, SampleConfig(steps=2))
    first = [frame.clone() for frame in rollout(session, conditions[:, 2:], 8)]
    session.rewind(back_to)
    again = list(rollout(session, conditions[:, back_to:], 10 - back_to))
    torch.testing.assert_close(torch.stack(again), torch.stack(first[back_to - 2 :]), **TOLERANCE)


def test_a_branch_after_rewinding_forgets_the_old_future() -> None:
    latents, conditions = clips(LONG, 1, 2)
    assert conditions is not None
    model, sample = random_transformer(LONG), SampleConfig(steps=2)
    session = Session(model, latents, conditions[:, :2], 12, sample)
    list(rollout(session, conditions[:, 2:], 8))
    session.rewind(6)
    branch = (conditions + 1) % 3
    kept = session.latents.clone()
    list(rollout(session, branch[:, 6:], 3))
    fresh = Session(model, kept, conditions[:, :6], 12, sample)
    list(rollout(fresh, branch[:, 6:], 3))
    torch.testing.assert_close(session.latents, fresh.latents, **TOLERANCE)


@pytest.mark.parametrize("config", [SHORT_ACTIONS, LONG], ids=["short", "long"])
@pytest.mark.parametrize("back_to", [3, 6, 8])
def test_the_newest_condition_can_be_amended(config: TransformerConfig, back_to: int) -> None:
    """Also after going back to a frame that the cache has read under its old condition."""
    latents, conditions = clips(config, 2, 2)
    assert conditions is not None
    sample, model = SampleConfig(steps=2, guidance=1.5), random_transformer(config)
    session = Session(model, latents, conditions[:, :2], 12, sample)
    list(rollout(session, conditions[:, 2:], 6))
    session.rewind(back_to)
    other = (conditions[:, back_to - 1] + 1) % 3
    session.amend(other)
    told = torch.cat([conditions[:, : back_to - 1], other[:, None]], dim=1)
    fresh = Session(model, session.latents.clone(), told, 12, sample)
    for frame in (8, 9):
        torch.testing.assert_close(session.step(conditions[:, frame]), fresh.step(conditions[:, frame]), **TOLERANCE)


@pytest.mark.parametrize("slide", [1, 3])
def test_what_was_read_ahead_outlives_an_amended_condition(slide: int) -> None:
    latents, conditions = clips(LONG, 1, 2)
    assert conditions is not None
    session = Session(random_transformer(LONG), latents, conditions[:, :2], 12, SampleConfig(steps=1, slide=slide))
    for frame in range(2, 9):
        session.step(conditions[:, frame])
        session.read_ahead()
        read = session.cache.layout
        session.amend((conditions[:, frame] + 1) % 3)
        assert session.cache.layout.frames == read.frames - 1
        assert session.cache.layout.tokens == read.tokens - read.segments[-1].tokens_per_frame


def test_more_is_not_gone_on_from_than_there_is_room_for() -> None:
    with pytest.raises(ValueError, match="a session of 4 frames cannot go on from 5"):
        Session(random_transformer(SHORT), torch.zeros(1, 5, 3, 4, 4), None, 4, SampleConfig(steps=1), [0])


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_who_is_told_nothing_is_not_guided(guidance: float) -> None:
    with pytest.raises(UserError, match="the model is told nothing it could follow: set it to 1"):
        at_sampling(replace(SHORT, condition="none"), SampleConfig(guidance=guidance), 4)


def test_a_session_has_a_size() -> None:
    latents, conditions = clips(LONG, 1, 2)
    assert conditions is not None
    session = Session(random_transformer(LONG), latents, conditions[:, :2], 3, SampleConfig(steps=1))
    session.step(conditions[:, 2])
    with pytest.raises(ValueError, match="room for 3"):
        session.step(conditions[:, 3])


def test_latents_as_they_lie_on_disk_are_gone_on_from_in_full_precision() -> None:
    latents, conditions = clips(LONG, 1, 6)
    assert conditions is not None
    sample, network = SampleConfig(steps=1), random_transformer(LONG)
    made = []
    for context in (latents.bfloat16(), latents.bfloat16().float()):
        session = Session(network, context, conditions[:, :6], 8, sample)
        session.read_ahead()
        made.append(session.step(conditions[:, -1]))
        assert session.latents.dtype == torch.float32
    assert torch.equal(*made)


def test_a_model_that_sees_itself_alone_is_told_what_was_done() -> None:
    """Window 1, memory 1: there is nothing before the new frame."""
    latents, conditions = clips(LONG, 1, 3)
    assert conditions is not None
    network = random_transformer(replace(LONG, window=1, action_of="departure"))
    session = Session(network, latents, conditions[:, :3], 5, SampleConfig(steps=1, memory=1))
    session.amend(torch.tensor([1]))
    assert session.step(torch.tensor([0])).isfinite().all()


def test_a_model_with_conditions_is_told_at_once_that_there_are_none() -> None:
    latents, _ = clips(LONG, 1, 0)
    with pytest.raises(ValueError, match="give those of the context"):
        Session(random_transformer(LONG), latents, None, 4, SampleConfig())


def test_every_frame_of_the_context_has_a_condition() -> None:
    latents, conditions = clips(LONG, 2, 3)
    assert conditions is not None
    for wrong in (conditions[:, :2], conditions[:1, :3]):
        with pytest.raises(ValueError, match="a condition for each frame of the context: 2 x 3 frames, not"):
            Session(random_transformer(LONG), latents, wrong, 4, SampleConfig())


def test_sessions_that_bend_time_by_other_lengths_are_of_other_kinds() -> None:
    model, sample = random_transformer(SHORT), SampleConfig(steps=1, riflex=True)
    sessions = [Session(model, torch.zeros(1, 1, 3, 4, 4), None, capacity, sample, [0]) for capacity in (8, 64)]
    with pytest.raises(ValueError, match="equal settings"):
        step_together(sessions, [None, None])


def test_every_frame_of_every_seed_has_noise_of_its_own() -> None:
    drawn = [frame_noise((3, 4, 4), [seed], frame) for seed in range(3) for frame in range(3)]
    assert not any(torch.equal(one, other) for one, other in combinations(drawn, 2))
