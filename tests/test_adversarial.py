"""The published training of an autoencoder: LPIPS beside L1, and a discriminator that joins half-way."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from test_train import losses, stop_after
from tiny import TOKENIZER, kept, tiny_episodes
from torch import Tensor, nn

from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import WEIGHTS, load_weights
from nextframe.config import OptimizerConfig, TokenizerConfig, TrainConfig
from nextframe.data.episodes import EpisodeDataset
from nextframe.discriminator import Discriminator, adaptive_weight, hinge_loss
from nextframe.errors import UserError
from nextframe.learner import Learner, Task, accumulate_gradients
from nextframe.metrics.lpips import Lpips
from nextframe.objective import Inputs
from nextframe.recipes import autoencoder_task, train_preset
from nextframe.reconstruction import AutoencoderWithDiscriminator, Frames, Reconstruction

TRAIN = TrainConfig(
    steps=4,
    batch=4,
    device="cpu",
    precision="float32",
    log_every=1,
    optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.5, 0.9)),
)
PLAIN = TokenizerConfig(model=replace(TOKENIZER, decoder_norm="batch_norm"), latent_noise=0.1, train=TRAIN)
JUDGED = replace(PLAIN, adversarial_weight=0.5)
CPU = torch.device("cpu")


@pytest.fixture
def footage(tmp_path: Path) -> EpisodeDataset:
    return tiny_episodes(tmp_path / "footage", split="train")


@pytest.fixture
def small_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """LPIPS with random weights."""

    def load(trunk: Literal["vgg", "alex"]) -> Lpips:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return Lpips("alex")

    monkeypatch.setattr(Lpips, "load", load)


def prepared(config: TokenizerConfig, adversarial: bool) -> Inputs:
    video = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    return Reconstruction(config, None).prepare(Frames(video, adversarial), torch.Generator().manual_seed(0))


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def test_without_the_additions_it_is_l1(footage: EpisodeDataset) -> None:
    """To the bit: the loss, its gradients, and what is trained."""
    task = autoencoder_task(PLAIN, footage)
    assert type(task.network) is Autoencoder and task.product is task.network
    assert not any(task.batch(step).adversarial for step in range(4))
    inputs = task.objective.prepare(task.batch(0), torch.Generator().manual_seed(3))
    assert list(inputs) == ["pixels", "noise"]
    accumulate_gradients(task.objective.score, task.network, inputs, 1, CPU)
    found = gradients(task.network)

    noise = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    latents = task.network.encode(inputs["pixels"])
    task.network.zero_grad()
    F.l1_loss(task.network.decode(latents + 0.1 * latents.std() * noise), inputs["pixels"]).backward()
    expected = gradients(task.network)
    assert found.keys() == expected.keys() == dict(task.network.named_parameters()).keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_discriminator_that_has_not_joined_changes_nothing(footage: EpisodeDataset, tmp_path: Path) -> None:
    train_preset(PLAIN, footage.folder, tmp_path / "plain")
    train_preset(JUDGED, footage.folder, tmp_path / "judged")
    plain, adversarial = losses(tmp_path / "plain"), losses(tmp_path / "judged")
    assert plain[:2] == adversarial[:2]
    assert all(one != other for one, other in zip(plain[2:], adversarial[2:], strict=True))


def test_the_perceptual_loss_is_added(small_lpips: None) -> None:
    autoencoder, inputs, lpips = Autoencoder(PLAIN.model), prepared(PLAIN, adversarial=False), Lpips.load("vgg")
    weighted = Reconstruction(replace(PLAIN, perceptual_weight=0.3), lpips).score(autoencoder, inputs).loss
    plain = Reconstruction(PLAIN, None)
    decoded = plain.decoded(autoencoder, autoencoder.encode(inputs["pixels"]), inputs["noise"])
    expected = plain.score(autoencoder, inputs).loss + 0.3 * lpips(inputs["pixels"], decoded).mean()
    torch.testing.assert_close(weighted, expected)


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms() -> None:
    last = nn.Parameter(torch.ones(4))
    assert adaptive_weight((3 * last).sum(), (0.5 * last).sum(), last).item() == pytest.approx(6 / (1 + 1e-4))
    assert adaptive_weight((3 * last).sum(), (0 * last).sum(), last).item() == 1e4
    assert last.grad is None


def test_the_discriminator_judges_patches() -> None:
    discriminator = Discriminator()
    assert sum(weight.numel() for weight in discriminator.parameters()) == 2_765_633  # pix2pix's, for 3 channels
    assert discriminator(torch.randn(2, 3, 64, 64)).shape == (2, 1, 6, 6)
    assert not list(discriminator.buffers())
    assert hinge_loss(torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])).item() == 0.5 * (0.25 + 0.5)


def test_each_network_gets_the_gradient_of_its_own_loss(small_lpips: None) -> None:
    """Against two separate backward passes, with the other network's weights frozen."""
    config, lpips = replace(JUDGED, perceptual_weight=1.0), Lpips.load("vgg")
    objective = Reconstruction(config, lpips)
    contest = AutoencoderWithDiscriminator(Autoencoder(config.model), Discriminator())
    inputs = prepared(config, adversarial=True)
    loss = accumulate_gradients(objective.score, contest, inputs, 1, CPU).loss
    found = gradients(contest)
    assert not [name for name in found if ".encoder." in name]

    contest.zero_grad()
    autoencoder, discriminator, real = contest.autoencoder, contest.discriminator, inputs["pixels"]
    autoencoder.network.encoder.requires_grad_(False)
    discriminator.requires_grad_(False)
    latents = autoencoder.encode(real)
    fake = autoencoder.decode(latents + 0.1 * latents.std() * inputs["noise"])
    distance, generator = F.l1_loss(fake, real) + lpips(real, fake).mean(), -discriminator(fake).mean()
    last = autoencoder.network.decoder.get_parameter("conv_out.conv.weight")
    pulls = [torch.autograd.grad(one, last, retain_graph=True)[0].norm() for one in (distance, generator)]
    of_autoencoder = distance + 0.5 * pulls[0] / (pulls[1] + 1e-4) * generator
    of_autoencoder.backward()
    discriminator.requires_grad_(True)
    of_discriminator = hinge_loss(discriminator(real), discriminator(fake.detach()))
    of_discriminator.backward()
    expected = gradients(contest)
    assert found.keys() == expected.keys()
    assert {name for name in found if name.startswith("discriminator.")} == {
        f"discriminator.{name}" for name, _ in discriminator.named_parameters()
    }
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(loss, (of_autoencoder + of_discriminator).detach())


def test_parts_of_a_batch_are_averaged() -> None:
    objective, inputs = Reconstruction(JUDGED, None), prepared(JUDGED, adversarial=True)
    contest = AutoencoderWithDiscriminator(Autoencoder(JUDGED.model), Discriminator())
    accumulate_gradients(objective.score, contest, inputs, 2, CPU)
    found = gradients(contest)
    contest.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        (objective.score(contest, {name: value[half] for name, value in inputs.items()}).loss / 2).backward()
    expected = gradients(contest)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-7, rtol=1e-5)


def test_resumed_across_the_start_is_the_same_to_the_bit(
    small_lpips: None, footage: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(JUDGED, perceptual_weight=1.0)
    train_preset(config, footage.folder, tmp_path / "straight")
    for stop, steps in ((1, 1), (3, 2)):  # before and after the discriminator joins
        with monkeypatch.context() as patched:
            stop_after(steps, patched)
            with pytest.raises(KeyboardInterrupt):
                train_preset(config, footage.folder, tmp_path / "stopped")
        assert len(losses(tmp_path / "stopped")) == stop
    train_preset(config, footage.folder, tmp_path / "stopped")
    assert losses(tmp_path / "straight") == losses(tmp_path / "stopped")
    states = [kept(tmp_path / run / "checkpoints" / "00000004") for run in ("straight", "stopped")]
    for part in ("weights", "average", "optimizer"):
        straight, resumed = (getattr(state, part) for state in states)
        assert straight.keys() == resumed.keys()
        assert all(torch.equal(straight[key], resumed[key]) for key in straight), part


def test_the_encoder_rests_when_the_discriminator_joins(
    footage: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_after(2, patched)
        with pytest.raises(KeyboardInterrupt):
            train_preset(JUDGED, footage.folder, tmp_path / "run")
    train_preset(JUDGED, footage.folder, tmp_path / "run")
    states = [kept(tmp_path / "run/checkpoints" / step) for step in ("00000002", "00000004")]
    before, after = states[0].weights, states[1].weights
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if ".encoder." in name]
    weights = {
        name for name, _ in AutoencoderWithDiscriminator(Autoencoder(JUDGED.model), Discriminator()).named_parameters()
    }
    assert {name for name in weights if ".encoder." not in name} <= changed
    steps = {
        name.removesuffix("/step"): value.item()
        for name, value in states[1].optimizer.items()
        if name.endswith("/step")
    }
    assert {steps[name] for name in weights if ".encoder." in name} == {2}
    assert {steps[name] for name in weights if ".decoder." in name} == {4}
    assert {steps[name] for name in weights if name.startswith("discriminator.")} == {2}


def test_what_is_left_is_a_plain_autoencoder(footage: EpisodeDataset, tmp_path: Path) -> None:
    train_preset(JUDGED, footage.folder, tmp_path / "run")
    autoencoder = load_weights(Autoencoder(JUDGED.model), tmp_path / "run" / WEIGHTS)
    average = kept(tmp_path / "run/checkpoints/00000004").average
    assert average.keys() == autoencoder.state_dict().keys()
    # And another run can start from it.
    train_preset(JUDGED, footage.folder, tmp_path / "second", initial=tmp_path / "run")


def test_a_discriminator_is_not_added_to_a_run_that_has_begun(footage: EpisodeDataset, tmp_path: Path) -> None:
    train_preset(replace(PLAIN, train=replace(TRAIN, steps=1)), footage.folder, tmp_path / "run")
    config = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(UserError, match="begun without a discriminator: use another --out, with --initial"):
        train_preset(JUDGED, footage.folder, tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_text() == config


def test_without_the_weights_of_lpips_nothing_begins(
    footage: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(UserError, match=r"vgg16-397923af\.pth is missing .* --perceptual-weight 0$"):
        train_preset(replace(JUDGED, perceptual_weight=1.0), footage.folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"adversarial_start": 1.5}, {"perceptual_weight": -1.0}, {"train": replace(TRAIN, minutes=1.0)}):
        with pytest.raises(ValueError):
            replace(JUDGED, **wrong)
    with pytest.raises(ValueError, match="gradient_clip is 0"):
        replace(TRAIN.optimizer, gradient_clip=0.0)
    with pytest.raises(ValueError, match="at least 24"):
        replace(JUDGED, model=replace(JUDGED.model, frame_size=16))


def test_terms_are_called_what_they_are() -> None:
    objective, inputs = Reconstruction(JUDGED, None), prepared(JUDGED, adversarial=True)
    contest = AutoencoderWithDiscriminator(Autoencoder(JUDGED.model), Discriminator())
    terms = dict(zip(objective.terms, objective.score(contest, inputs).terms.tolist(), strict=True))
    real, judge = inputs["pixels"], contest.discriminator
    with torch.no_grad():
        fake = objective.decoded(contest.autoencoder, contest.autoencoder.encode(real), inputs["noise"])
        expected = {"l1": F.l1_loss(fake, real), "generator_loss": -judge(fake).mean()}
        expected["discriminator_loss"] = hinge_loss(judge(real), judge(fake))
    assert terms.pop("lpips") == [0, 0]
    assert terms == {name: [pytest.approx(loss.item(), rel=1e-4), 1] for name, loss in expected.items()}


def gradients_of(network: torch.nn.Module) -> list[torch.Tensor]:
    return [weight.grad for weight in network.parameters() if weight.grad is not None]


def test_only_the_gradient_of_what_is_kept_is_clipped() -> None:
    contest = AutoencoderWithDiscriminator(Autoencoder(JUDGED.model), Discriminator())
    clipped = replace(JUDGED.train, optimizer=replace(JUDGED.train.optimizer, gradient_clip=1e-3))
    objective: Any = Reconstruction(JUDGED, None)
    learner = Learner(Task(contest, objective, lambda step: None, product=contest.autoencoder), clipped)
    learner.differentiate(prepared(JUDGED, adversarial=True))
    before = [gradient.clone() for gradient in gradients_of(contest.discriminator)]
    norm = learner.update(0.0, 0)
    assert all(map(torch.equal, before, gradients_of(contest.discriminator)))
    own = torch.nn.utils.get_total_norm(gradients_of(contest.autoencoder))
    assert own.item() == pytest.approx(1e-3, rel=1e-3) and norm > 1e-3


def test_a_discriminator_that_breaks_moves_nothing() -> None:
    contest = AutoencoderWithDiscriminator(Autoencoder(JUDGED.model), Discriminator())
    objective: Any = Reconstruction(JUDGED, None)
    learner = Learner(Task(contest, objective, lambda step: None, product=contest.autoencoder), JUDGED.train)
    learner.differentiate(prepared(JUDGED, adversarial=True))
    before = {name: weight.clone() for name, weight in contest.state_dict().items()}
    gradients_of(contest.discriminator)[0][0] = float("nan")
    learner.update(1e-3, 0)
    after = contest.state_dict()
    assert learner.figures(1)[0]["skipped"] == 1
    assert all(torch.equal(after[name], before[name]) for name, _ in contest.named_parameters())
