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
from nextframe.objective import Inputs, Score
from nextframe.ranks import ALONE, Share, deviation


@dataclass(frozen=True)
class Frames:
    """A training batch: uint8 [b, height, width, 3], and whether the discriminator has joined."""

    video: Tensor
    adversarial: bool
    share: Share = ALONE
    """Which rows of the batch of all processes these frames are."""


class AutoencoderWithDiscriminator(nn.Module):
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
    """How far a frame is from its reconstruction: for an `Autoencoder`, with a discriminator if one is configured."""

    config: TokenizerConfig
    lpips: Lpips | None
    """None: without its term."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms of the loss, before they are weighted; those of the contest once the discriminator has joined."""
        return ("l1", "lpips", "generator_loss", "discriminator_loss")

    @property
    def has_unused_parameters(self) -> bool:
        """Those of the discriminator before it joins, and those of the encoder from then on."""
        return self.config.adversarial_weight > 0

    def prepare(self, batch: Frames, generator: torch.Generator) -> Inputs:
        """`pixels` [b, 3, height, width] in [-1, 1]; with latent noise `noise` [b, c, h, w], standard normal; once the
        discriminator has joined `adversarial_weight` [b]."""
        b = len(batch.video)
        inputs = {"pixels": pixels_from_video(batch.video)}
        if self.config.latent_noise:
            shape = (b * batch.share.ranks, *self.config.model.latent_shape)
            inputs["noise"] = batch.share.of(torch.randn(shape, generator=generator))
        if batch.adversarial:
            inputs["adversarial_weight"] = torch.full((b,), self.config.adversarial_weight)
        return inputs

    def score(self, network: nn.Module, inputs: Inputs) -> Score:
        if "adversarial_weight" in inputs:
            assert isinstance(network, AutoencoderWithDiscriminator)
            return _contest(self, network, inputs)
        autoencoder = network.autoencoder if isinstance(network, AutoencoderWithDiscriminator) else network
        assert isinstance(autoencoder, Autoencoder)
        latents = autoencoder.encode(inputs["pixels"])
        distance, l1, lpips = self.distance(self.decoded(autoencoder, latents, inputs.get("noise")), inputs["pixels"])
        return Score(distance, _terms(l1, lpips, None, None))

    def decoded(self, autoencoder: Autoencoder, latents: Tensor, noise: Tensor | None) -> Tensor:
        if noise is not None:
            latents = latents + self.config.latent_noise * deviation(latents) * noise
        return autoencoder.decode(latents).float()

    def distance(self, reconstruction: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The weighted sum of L1 and LPIPS, and the two of them."""
        l1 = F.l1_loss(reconstruction, pixels)
        if self.lpips is None:
            return l1, l1, None
        lpips = self.lpips(reconstruction, pixels).mean()
        return l1 + self.config.perceptual_weight * lpips, l1, lpips


def _terms(*terms: Tensor | None) -> Tensor:
    """Of each term its value, counted once; of one that is not there, nothing. [terms, 2]"""
    like = next(term for term in terms if term is not None).detach()
    nothing = like.new_zeros(2)
    return torch.stack(
        [nothing if term is None else torch.stack([term.detach(), torch.ones_like(like)]) for term in terms]
    )


# Not compiled: `adaptive_weight` goes back through the decoder twice before the step does, and the graph of a compiled
# function can be gone back through only once.
@torch.compiler.disable()
def _contest(objective: Reconstruction, network: AutoencoderWithDiscriminator, inputs: Inputs) -> Score:
    """The losses of both networks in one sum, in which neither moves the weights of the other."""
    autoencoder, discriminator, real = network.autoencoder, network.discriminator, inputs["pixels"]
    with torch.no_grad():  # The encoder is done. It has no batch norms, so nothing of it changes any more.
        latents = autoencoder.encode(real)
    fake = objective.decoded(autoencoder, latents, inputs.get("noise"))
    distance, l1, lpips = objective.distance(fake, real)
    unmoved = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    generator = -functional_call(discriminator, unmoved, (fake,)).mean()
    # In a batch that is accumulated, each part has an adaptive weight of its own.
    weight = inputs["adversarial_weight"].mean() * adaptive_weight(distance, generator, autoencoder.last_weight)
    told_apart = hinge_loss(discriminator(real), discriminator(fake.detach()))
    return Score(distance + weight * generator + told_apart, _terms(l1, lpips, generator, told_apart))
