"""Named configurations. Every field can be overridden on the command line."""

from nextframe.config import (
    AutoencoderConfig,
    ClipConfig,
    OptimizerConfig,
    Protocol,
    SampleConfig,
    TokenizerConfig,
    TrainConfig,
    TransformerConfig,
    WorldModelConfig,
)

# The tokenizer and the world model that ship with the project: a 64 x 64 world for two CPU cores.
AUTOENCODER_MAZE = TokenizerConfig(
    model=AutoencoderConfig(
        frame_size=64,
        latent_channels=8,
        encoder_channels=(32, 64, 128, 128),
        encoder_layers=(0, 1, 1, 1),
        decoder_channels=(32, 64, 128, 128),
        decoder_layers=(0, 1, 2, 1),
        attention_stages=0,
        decoder_norm="rms_norm",
        decoder_activation="silu",
    ),
    latent_noise=0.1,
    train=TrainConfig(
        steps=1_000,
        batch=32,
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.95), warmup_steps=100, decay=0.3, ema_decay=0.999),
    ),
)

MAZE = WorldModelConfig(
    model=TransformerConfig(
        latent_channels=8,
        latent_size=8,
        layers=5,
        heads=4,
        head_dim=64,
        patch=2,
        coarse_patch=4,
        window=16,
        condition="action",
        classes=5,
    ),
    clip=ClipConfig(frames=300, min_frames=16, ramp=0.7),
    clean_context=0.4,
    train=TrainConfig(
        steps=2_750,
        batch=16,
        optimizer=OptimizerConfig(learning_rate=8e-4, betas=(0.9, 0.95), warmup_steps=300, decay=0.3, ema_decay=0.999),
    ),
    sample=SampleConfig(steps=5),
)

PRESETS: dict[str, TokenizerConfig | WorldModelConfig] = {
    "autoencoder-maze": AUTOENCODER_MAZE,
    "maze": MAZE,
}

PROTOCOLS: dict[str, Protocol] = {
    "maze": Protocol(context=144, frames=156, episodes=64, split="test"),
    "demo": Protocol(context=144, frames=156, episodes=8, split="demo"),
}
