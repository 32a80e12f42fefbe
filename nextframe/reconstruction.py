"""What an autoencoder minimises: L1, LPIPS, and from some step on the judgement of a discriminator that learns too."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from nextframe.autoencoder import Autoencoder, pixels_from_video
from nextframe.config import TokenizerConfig
from nextframe.discriminator import Discriminator, adaptive_weight, hinge_loss
from nextframe.metrics.lpips import Lpips
from nextframe.objective import Inputs
from nextframe.ranks import ALONE, Share, deviation


@dataclass(frozen=True)
class Frames:
    """A training batch: uint8 [b, height, width, 3], and whether the discriminator has joined."""

    video: Tensor
    judged: bool
    share: Share = ALONE
    """Of which rows of a batch these frames are all that is here."""


class Contest(nn.Module):
    """An autoencoder, and the discriminator that is trained beside it to tell its frames from real ones."""

    def __init__(self, autoencoder: Autoencoder, discriminator: Discriminator) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.discriminator = discriminator


def is_judged(config: TokenizerConfig, step: int) -> bool:
    """Whether the discriminator has joined at this step, the first of all being 0."""
    return config.adversarial_weight > 0 and step >= config.adversarial_start * config.train.steps


@dataclass(frozen=True)
class Reconstruction:
    """How far a frame is from its reconstruction, for an `Autoencoder`, or a `Contest` if one is configured."""

    config: TokenizerConfig
    lpips: Lpips | None
    """None: without its term."""

    def prepare(self, batch: Frames, generator: torch.Generator) -> Inputs:
        model, b = self.config.model, len(batch.video)
        shape = (b * batch.share.ranks, model.latent_channels, model.latent_size, model.latent_size)
        noise = batch.share.of(torch.randn(shape, generator=generator))
        inputs = {"pixels": pixels_from_video(batch.video), "noise": noise}
        if batch.judged:
            inputs["adversarial_weight"] = torch.full((b,), self.config.adversarial_weight)
        return inputs

    def loss(self, network: nn.Module, inputs: Inputs) -> Tensor:
        if "adversarial_weight" in inputs:
            assert isinstance(network, Contest)
            return _contest(self, network, inputs)
        autoencoder = network.autoencoder if isinstance(network, Contest) else network
        assert isinstance(autoencoder, Autoencoder)
        latents = autoencoder.encode(inputs["pixels"])
        return self.distance(self.decoded(autoencoder, latents, inputs["noise"]), inputs["pixels"])

    def decoded(self, autoencoder: Autoencoder, latents: Tensor, noise: Tensor) -> Tensor:
        return autoencoder.decode(latents + self.config.latent_noise * deviation(latents) * noise).float()

    def distance(self, reconstruction: Tensor, pixels: Tensor) -> Tensor:
        distance = F.l1_loss(reconstruction, pixels)
        if self.lpips is not None:
            distance = distance + self.config.perceptual_weight * self.lpips(reconstruction, pixels).mean()
        return distance


# Not compiled: `adaptive_weight` goes back through the decoder twice before the step does, and the graph of a compiled
# function can be gone back through only once.
@torch.compiler.disable()
def _contest(objective: Reconstruction, network: Contest, inputs: Inputs) -> Tensor:
    """The losses of both networks in one sum, in which neither moves the weights of the other."""
    autoencoder, discriminator, real = network.autoencoder, network.discriminator, inputs["pixels"]
    with torch.no_grad():  # The encoder is done. It has no batch norms, so nothing of it changes any more.
        latents = autoencoder.encode(real)
    fake = objective.decoded(autoencoder, latents, inputs["noise"])
    distance = objective.distance(fake, real)
    unmoved = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    generator = -functional_call(discriminator, unmoved, (fake,)).mean()
    # In a batch that is accumulated, each part has an adaptive weight of its own.
    weight = inputs["adversarial_weight"].mean() * adaptive_weight(distance, generator, autoencoder.last_weight)
    return distance + weight * generator + hinge_loss(discriminator(real), discriminator(fake.detach()))
