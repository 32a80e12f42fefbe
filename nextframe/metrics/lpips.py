"""LPIPS (arXiv 1801.03924): how different two pictures look, by the features of a network that learned to see.

Unlike a distance of pixels it does not prefer the average of all possible pictures, which is a blur. A loss and a
metric; as a loss only the pictures get a gradient.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from nextframe.data.tensors import tensors_of
from nextframe.errors import UserError
from nextframe.metrics.exact import exactly
from nextframe.metrics.weights import Name, weight_files
from nextframe.shapes import Pixels

EPSILON = 1e-10


class Trunk(NamedTuple):
    """A network that learned to tell what is in a picture, and where LPIPS looks into it."""

    layers: list[nn.Module]
    """In torchvision's order, up to the last one that is looked at; the names of its weights follow from that."""
    seen: dict[int, int]
    """Number of a layer, always a relu -> its channels."""


def _vgg16() -> Trunk:
    layers: list[nn.Module] = []
    seen, channels = {}, 3
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        seen[len(layers) - 1] = width  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
        layers.append(nn.MaxPool2d(2))
    return Trunk(layers[:-1], seen)


def _alexnet() -> Trunk:
    layers = [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]
    return Trunk(layers, {1: 64, 4: 192, 7: 384, 9: 256, 11: 256})


TRUNKS = {"vgg": _vgg16, "alex": _alexnet}
FILES: dict[str, tuple[Name, Name]] = {"vgg": ("vgg16", "lpips-vgg"), "alex": ("alexnet", "lpips-alex")}
"""Standard weights of the trunk and of the heads."""


class Lpips(nn.Module):
    """Distance of pictures: sum over layers of mean over places of w . (unit features - unit features)^2, w >= 0."""

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Literal["vgg", "alex"]) -> None:
        """With random weights; `load` is what is meant by LPIPS."""
        super().__init__()
        plan = TRUNKS[trunk]()
        self._seen = frozenset(plan.seen)
        self.features = nn.ModuleList(plan.layers)
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels in plan.seen.values())
        # From [-1, 1] to the mean and deviation the trunk learned with.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, trunk: Literal["vgg", "alex"]) -> Self:
        """With the standard weights. Raises UserError when a file of them is missing or damaged."""
        features, heads = weight_files(*FILES[trunk])
        lpips = cls(trunk)
        _fill(lpips.features, features, lambda name: f"features.{name}")
        _fill(lpips.heads, heads, lambda name: f"lin{name.replace('.', '.model.1.')}")
        return lpips

    def forward(self, pictures: Pixels, others: Pixels) -> Tensor:
        """[b, 3, height, width] in [-1, 1], twice -> distances [b], float32"""
        with exactly(pictures.device):
            looks = zip(self._looks(pictures.float()), self._looks(others.float()), strict=True)
            distances = [
                head((look - other).square()).mean((1, 2, 3))
                for head, (look, other) in zip(self.heads, looks, strict=True)
            ]
            return torch.stack(distances).sum(0)

    def _looks(self, pictures: Tensor) -> list[Tensor]:
        """The features of each layer that is looked at, [b, c, h, w], of length 1 at every place."""
        x = (pictures - self.shift) / self.scale
        looks = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self._seen:
                looks.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + EPSILON))
        return looks


def _fill(network: nn.Module, path: Path, name_in_file: Callable[[str], str]) -> None:
    """Load the weights of `network` from a file that holds them under other names, and perhaps more besides."""
    way_out = "delete that file, and it is fetched anew"
    try:
        # No code of a stranger's file is run. LPIPS's own files want a GPU, unless told otherwise.
        weights = tensors_of(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {way_out}") from error
    wanted = {name: name_in_file(name) for name in network.state_dict()}
    missing = [name for name in wanted.values() if not isinstance(weights, dict) or name not in weights]
    if missing:
        raise UserError(f"{path} is of another network ({missing[0]} is missing): {way_out}")
    try:
        network.load_state_dict({ours: weights[theirs] for ours, theirs in wanted.items()})
    except RuntimeError as error:
        raise UserError(f"{path} is of another network ({str(error).splitlines()[-1].strip()}): {way_out}") from error
