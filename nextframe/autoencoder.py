"""The autoencoder: a thin wrapper of diffusers' DC-AE, which has the published weights' exact keys and numbers."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nextframe.architecture import AutoencoderConfig
from nextframe.shapes import Pixels


def diffusers_settings(config: AutoencoderConfig) -> dict[str, Any]:
    """The keyword arguments of `diffusers.AutoencoderDC` for this configuration."""
    stages = len(config.encoder_channels)
    plain = stages - config.attention_stages
    blocks = ("ResBlock",) * plain + ("EfficientViTBlock",) * config.attention_stages
    return {
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "attention_head_dim": 32,
        "encoder_block_types": blocks,
        "decoder_block_types": blocks,
        "encoder_block_out_channels": config.encoder_channels,
        "decoder_block_out_channels": config.decoder_channels,
        "encoder_layers_per_block": config.encoder_layers,
        "decoder_layers_per_block": config.decoder_layers,
        "encoder_qkv_multiscales": ((),) * stages,
        "decoder_qkv_multiscales": ((),) * stages,
        "downsample_block_type": "pixel_unshuffle",
        "upsample_block_type": "pixel_shuffle",
        "decoder_norm_types": (config.decoder_norm,) * plain + ("rms_norm",) * config.attention_stages,
        "decoder_act_fns": (config.decoder_activation,) * plain + ("silu",) * config.attention_stages,
    }


class Autoencoder(nn.Module):
    """Frames to latents and back. Latents come out scaled, about unit variance: what the transformer works on."""

    scale: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        from diffusers import AutoencoderDC  # takes 1.4 s

        self.config = config
        self.network = AutoencoderDC(**diffusers_settings(config))
        for parameter in self.network.parameters():
            if parameter.dim() == 4:  # convolutions are faster with the channels last in memory
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        # 1 / standard deviation of the latents, measured after training; kept with the weights it belongs to.
        self.register_buffer("scale", torch.ones(()))

    def encode(self, pixels: Pixels) -> Tensor:
        """[b, 3, height, width] in [-1, 1] -> scaled latents [b, c, h, w]"""
        return self.network.encode(pixels, return_dict=False)[0] * self.scale

    def decode(self, latents: Tensor) -> Pixels:
        """Scaled latents [b, c, h, w] -> [b, 3, height, width], about [-1, 1]"""
        return self.network.decode(latents / self.scale, return_dict=False)[0]

    @property
    def last_weight(self) -> nn.Parameter:
        """Of the decoder's last convolution."""
        # By its axes: the layer is a convolution, or (without layers in the first stage) a block that ends in one.
        last = list(self.network.decoder.parameters())[-2:]
        return next(parameter for parameter in last if parameter.dim() == 4)


def pixels_from_video(video: Tensor) -> Pixels:
    """uint8 [..., height, width, 3] -> float [..., 3, height, width] in [-1, 1]"""
    return (video.float() / 127.5 - 1).movedim(-1, -3).contiguous()


def video_from_pixels(pixels: Pixels) -> Tensor:
    """float [..., 3, height, width] in [-1, 1] -> uint8 [..., height, width, 3]"""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1).contiguous()


FRAMES_AT_ONCE = 64
"""That pass through an autoencoder together: of a longer video, one part after the other."""


@torch.no_grad()
def encode_video(autoencoder: Autoencoder, video: Tensor) -> Tensor:
    """uint8 [f, height, width, 3] -> scaled latents, float32 [f, c, h, w]"""
    device = autoencoder.scale.device
    parts = [autoencoder.encode(pixels_from_video(part.to(device))).float() for part in video.split(FRAMES_AT_ONCE)]
    return torch.cat(parts)


@torch.no_grad()
def decode_video(autoencoder: Autoencoder, latents: Float[Tensor, "f c h w"]) -> Tensor:
    """Scaled latents [f, c, h, w] -> uint8 [f, height, width, 3] on the CPU"""
    parts = [part.to(autoencoder.scale.device) for part in latents.split(FRAMES_AT_ONCE)]
    return torch.cat([video_from_pixels(autoencoder.decode(part)).cpu() for part in parts])
