"""The critic of the published autoencoder: PatchGAN (arXiv 1611.07004), which judges a picture patch by patch."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextframe.ranks import mean
from nextframe.shapes import Pixels

CHANNELS = (64, 128, 256, 512)
"""After each convolution. All but the last halve the resolution."""
SLOPE = 0.2
"""Of the leaky ReLU below zero."""
DEVIATION = 0.02
"""Standard deviation of the initial weights."""


class Discriminator(nn.Module):
    """How real each patch of a frame looks. It exists in training only, and sees a batch of one kind at a time.

    Its batch norms therefore keep no running statistics: what a patch is judged by is the batch it comes in.
    """

    def __init__(self) -> None:
        super().__init__()
        first, last = CHANNELS[0], CHANNELS[-1]
        layers: list[nn.Module] = [_convolution(3, first, stride=2), nn.LeakyReLU(SLOPE)]
        for channels, wider in pairwise(CHANNELS):
            # The norm takes the mean away, and with it what a bias would add.
            layers.append(_convolution(channels, wider, stride=1 if wider == last else 2, bias=False))
            norm = nn.BatchNorm2d(wider, track_running_stats=False)
            nn.init.normal_(norm.weight, 1.0, DEVIATION)
            layers += [norm, nn.LeakyReLU(SLOPE)]
        layers.append(_convolution(last, 1, stride=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Pixels) -> Tensor:
        """[b, 3, height, width] in [-1, 1] -> logits of its patches [b, 1, rows, columns], positive for real"""
        return self.layers(pixels).float()


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises (arXiv 1705.02894): logits of real patches above 1, of fake ones below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, generator: Tensor, last: nn.Parameter) -> Tensor:
    """How much the generator loss must be scaled to pull as hard as the reconstruction loss does, at most 10 000
    (VQGAN, arXiv 2012.09841, equation 7).

    The pull of a loss is the norm of its gradient at `last`, the weight of the decoder's last layer: of the losses of
    all processes together, where there are several.
    """
    (wanted,) = torch.autograd.grad(reconstruction, last, retain_graph=True)
    (offered,) = torch.autograd.grad(generator, last, retain_graph=True)
    return (mean(wanted).norm() / (mean(offered).norm() + 1e-4)).clamp(0, 1e4).detach()


def _convolution(channels: int, wider: int, stride: int, bias: bool = True) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, wider, 4, stride=stride, padding=1, bias=bias)
    nn.init.normal_(convolution.weight, 0.0, DEVIATION)
    return convolution
