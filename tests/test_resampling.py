"""Context that the model has made itself, in place of the clip's (Resampling Forcing)."""

from contextlib import nullcontext

import pytest
import torch
from conftest import COMPASS, LONG, SHORT, random_transformer

from nextframe.architecture import TransformerConfig
from nextframe.config import WorldModelConfig
from nextframe.objective import RESAMPLED, Clips, FrameFlowMatching, Inputs

KINDS = pytest.mark.parametrize("model", [SHORT, LONG, COMPASS], ids=["short", "long", "compass"])


def prepared(model: TransformerConfig, share: float, clips: int = 4) -> tuple[FrameFlowMatching, Inputs]:
    objective = FrameFlowMatching(WorldModelConfig(model=model, clean_context=0.5, resampled_context=share))
    conditions = None if model.condition == "none" else torch.randint(0, 3, (clips, 9))
    batch = Clips(torch.randn(clips, 9, 3, 4, 4), conditions)
    return objective, objective.prepare(batch, torch.Generator().manual_seed(0))


@KINDS
def test_resampled_frames_are_the_models_own(model: TransformerConfig) -> None:
    """One step of Euler's from where they are to 0, seeing what comes before them; all else stays."""
    network = random_transformer(model)
    objective, inputs = prepared(model, 0.5)
    layout, chosen, fine = objective.layout([9]), inputs[RESAMPLED], inputs[RESAMPLED].shape[1]
    made = objective.resampled(network, layout, inputs)
    assert 0 < chosen.float().mean() < 0.5
    with torch.no_grad():
        out = network(
            network.tokens(inputs["input"], layout),
            layout,
            inputs["time"],
            inputs.get("condition"),
            headings=inputs.get("headings"),
        )
    velocity, before = network.latents(out), inputs["input"][:, -fine:]
    levels = inputs["time"][:, -fine:, None, None, None] / 1000
    assert (levels[chosen] > 0).all() and (velocity[chosen] != 0).all()
    expected = torch.where(chosen[..., None, None, None], before - levels * velocity, before)
    torch.testing.assert_close(made["input"][:, -fine:], expected)
    assert torch.equal(made["input"][:, :-fine], inputs["input"][:, :-fine])
    assert (made["time"][:, -fine:][chosen] == -1).all() and (inputs["weight"][chosen] == 0).all()
    assert torch.equal(made["time"][:, -fine:][~chosen], inputs["time"][:, -fine:][~chosen])
    clean = made["time"][:, -fine:] == -1
    assert torch.equal(clean, inputs["weight"] == 0)


@KINDS
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_those_of_given_context(model: TransformerConfig, precision: torch.dtype) -> None:
    """As if what was resampled had been given: nothing is learnt through it, and all weights learn as ever."""
    network = random_transformer(model)
    objective, inputs = prepared(model, 1.0)
    gradients = []
    for given in (False, True):
        network.zero_grad()
        with nullcontext() if precision == torch.float32 else torch.autocast("cpu", precision):
            if given:
                made = objective.resampled(network, objective.layout([9]), inputs)
                inputs = {name: x.detach() for name, x in made.items() if name != RESAMPLED}
            objective.score(network, inputs).loss.backward()
        gradients.append([weight.grad for weight in network.parameters()])
    for resampled, expected in zip(*gradients, strict=True):
        assert resampled is not None and expected is not None
        torch.testing.assert_close(resampled, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_share_is_of_the_clean_frames(share: float) -> None:
    _, inputs = prepared(LONG, share, clips=1000)
    clean = inputs["weight"] == 0
    assert not (inputs[RESAMPLED] & ~clean).any()
    assert inputs[RESAMPLED][clean].float().mean().item() == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize(("clean", "share", "way_out"), [(0.5, 1.5, "at most 1"), (0.0, 0.5, "set --clean-context")])
def test_impossible_shares_are_refused(clean: float, share: float, way_out: str) -> None:
    with pytest.raises(ValueError, match=way_out):
        WorldModelConfig(model=LONG, clean_context=clean, resampled_context=share)
