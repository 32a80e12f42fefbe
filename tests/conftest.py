"""Small things many tests need; and shapes are checked while tests run."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pytest
import torch

from nextframe.architecture import AutoencoderConfig, TransformerConfig

with jaxtyping.install_import_hook(
    [
        "nextframe.autoencoder",
        "nextframe.cache",
        "nextframe.discriminator",
        "nextframe.layers",
        "nextframe.mask",
        "nextframe.metrics.lpips",
        "nextframe.rope",
        "nextframe.session",
        "nextframe.transformer",
    ],
    "beartype.beartype",
):
    from nextframe import flow  # noqa: F401
    from nextframe.transformer import Transformer

# Tests run side by side. With more threads, here or in what they start, they would wait for each other.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# What they start, in whatever folder, finds this package and the modules beside this file.
_ours = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
os.environ["PYTHONPATH"] = os.pathsep.join([*_ours, *filter(None, [os.environ.get("PYTHONPATH")])])

SHORT = TransformerConfig(latent_channels=3, latent_size=4, layers=2, heads=2, head_dim=16, rope_axes=(4, 6, 6))
LONG = replace(SHORT, coarse_patch=2, window=4, condition="action", classes=3)
COMPASS = replace(LONG, turns=(0, 1, -1), headings=4, rope_axes=(4, 4, 4))
AUTOENCODER = AutoencoderConfig(
    frame_size=16,
    latent_channels=3,
    encoder_channels=(6, 12, 12),
    encoder_layers=(0, 1, 1),
    decoder_channels=(6, 12, 12),
    decoder_layers=(0, 1, 1),
    attention_stages=0,
    decoder_norm="rms_norm",
)


@pytest.fixture(autouse=True)
def _quiet_and_seeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test starts from one seed, in an empty folder of its own."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    yield


def random_transformer(config: TransformerConfig) -> Transformer:
    """A network in which everything is random, also what training starts at zero."""
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
