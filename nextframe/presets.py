"""Named configurations. Every field can be overridden on the command line."""

from dataclasses import replace
from pathlib import Path

from nextframe.architecture import AutoencoderConfig, TransformerConfig
from nextframe.config import ClipConfig, OptimizerConfig, SampleConfig, TokenizerConfig, TrainConfig, WorldModelConfig
from nextframe.protocol import Protocol

PRETRAINED = Path(__file__).parent / "pretrained" / "maze"
"""The run that ships with the project, of the next two: a 64 x 64 world for two CPU cores."""
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
        # 4 tokens a frame, 1 of an older one: after 38 minutes of one core 1.5 dB ahead of 16 and 4. The weights in
        # pretrained/maze were trained on with a window of 64, which is what remembers (docs/experiments.md).
        patch=4,
        coarse_patch=8,
        window=16,
        condition="action",
        classes=5,
        turns=(0, 0, 1, -1, 0),  # to the left, and to the right
        headings=16,
        rope_axes=(16, 16, 24),
    ),
    # Four windows over one past, and no clip longer than a walk needs to come back: more windows an hour.
    clip=ClipConfig(frames=128, min_frames=20, windows=4),
    clean_context=0.4,
    train=TrainConfig(
        steps=10_000,
        batch=16,
        optimizer=OptimizerConfig(
            algorithm="muon", learning_rate=6e-4, betas=(0.9, 0.95), warmup_steps=100, decay=0.6, ema_decay=0.995
        ),
    ),
    # Fewer steps and a window that is read once in eight frames: as good, and half the time (docs/experiments.md).
    sample=SampleConfig(steps=2, solver="even-euler", slide=8),
)

# The same for footage of any kind and up to 32 actions. No compass: nobody knows which of the actions turn.
FOOTAGE = replace(MAZE, model=replace(MAZE.model, classes=32, turns=(), headings=1, rope_axes=(16, 24, 24)))

# The paper's models (arXiv 2503.19325, Table 1), all on 8 x 8 latents of 32 channels. Parameters in docs/paper.md.
FAR_B = TransformerConfig(layers=12, heads=12)
FAR_M = TransformerConfig(layers=12, heads=16)
FAR_L = TransformerConfig(layers=24, heads=16)
FAR_XL = TransformerConfig(layers=28, heads=18)
FAR_B_LONG = replace(FAR_B, coarse_patch=4, condition="action", classes=4)
FAR_M_LONG = replace(FAR_M, coarse_patch=4, condition="action", classes=4)

# Their training: AdamW at 1e-4, batch 32, EMA 0.9999, clean context 0.1 are the defaults.
LONG_CLIP = ClipConfig(frames=300, min_frames=16)
LONG_TRAIN = TrainConfig(steps=1_000_000, optimizer=OptimizerConfig(warmup_steps=10_000))


def _long(model: TransformerConfig) -> WorldModelConfig:
    return WorldModelConfig(model=model, clip=LONG_CLIP, train=LONG_TRAIN, sample=SampleConfig(guidance=1.5))


def _ucf101(model: TransformerConfig, labels: bool) -> WorldModelConfig:
    """Generation from nothing: 16 frames, every third of the video."""
    if labels:
        model = replace(model, condition="label", classes=101)
    return WorldModelConfig(
        model=model,
        clip=ClipConfig(frames=16, interval=3, mirror=True),
        train=TrainConfig(steps=400_000),
        sample=SampleConfig(guidance=2.0 if labels else 1.0),
    )


FAR = {
    "far-b": WorldModelConfig(model=FAR_B),
    "far-m": WorldModelConfig(model=FAR_M),
    "far-l": WorldModelConfig(model=FAR_L),
    "far-xl": WorldModelConfig(model=FAR_XL),
    "far-b-long": _long(FAR_B_LONG),
    "far-m-long": _long(FAR_M_LONG),
    # Video generation. 128 and 256 pixels differ in their autoencoder only: both have 8 x 8 latents.
    "ucf101-128": _ucf101(FAR_L, labels=False),
    "ucf101-128-labels": _ucf101(FAR_L, labels=True),
    "ucf101-256": _ucf101(FAR_L, labels=False),
    "ucf101-256-labels": _ucf101(FAR_L, labels=True),
    "ucf101-256-xl": _ucf101(FAR_XL, labels=False),
    "ucf101-256-xl-labels": _ucf101(FAR_XL, labels=True),
    # Short video prediction. The published code trains BAIR on 30 frames; Table 8 says 32.
    "ucf101-64": WorldModelConfig(model=FAR_B, clip=ClipConfig(mirror=True), train=TrainConfig(steps=200_000)),
    "bair-64": WorldModelConfig(
        model=replace(FAR_B, window=30), clip=ClipConfig(frames=30), train=TrainConfig(steps=200_000)
    ),
    # Long video prediction.
    "dmlab-64": _long(FAR_B_LONG),
    "minecraft-128": _long(FAR_M_LONG),
    # The comparison of Figure 5: the same network and training as a video diffusion transformer.
    "video-dit-ucf101-128": replace(
        _ucf101(FAR_L, labels=False), model=replace(FAR_L, attention="full"), clean_context=0.0
    ),
}


def _published_autoencoder(frame_size: int, extra_stages: int) -> TokenizerConfig:
    """The published DC-AE: 8 x 8 latents of 32 channels, whatever the size of the frames."""
    channels, encoder, decoder = (128, 256, 512, 512), (0, 4, 8, 2), (0, 5, 10, 2)
    more, layers = (1024,) * extra_stages, (2,) * extra_stages
    return TokenizerConfig(
        model=AutoencoderConfig(
            frame_size=frame_size,
            encoder_channels=channels + more,
            encoder_layers=encoder + layers,
            decoder_channels=channels + more,
            decoder_layers=decoder + layers,
            attention_stages=1 + extra_stages,
        ),
        perceptual_weight=1.0,
        adversarial_weight=0.5,
        # As published: 128 clips of 4 frames.
        train=TrainConfig(steps=200_000, batch=512, accumulate=4, optimizer=OptimizerConfig(betas=(0.5, 0.9))),
    )


AUTOENCODERS = {
    "autoencoder-8x": _published_autoencoder(64, 0),
    "autoencoder-16x": _published_autoencoder(128, 1),
    "autoencoder-32x": _published_autoencoder(256, 2),
}

PRESETS: dict[str, TokenizerConfig | WorldModelConfig] = {
    "autoencoder-maze": AUTOENCODER_MAZE,
    "maze": MAZE,
    "footage": FOOTAGE,
    **AUTOENCODERS,
    **FAR,
}

# The paper's evaluations (Table 8). Frames, seeds and guidance are those of its published settings.
PIXELS_AND_FVD = ("psnr", "ssim", "lpips", "fvd")
# Of BAIR, DMLab and Minecraft it holds out lists called validation, for prediction on UCF-101 one called test.
BEST_OF_100 = Protocol(episodes=256, trajectories=100, steps=50, guidance=1.0, metrics=PIXELS_AND_FVD)
FOUR_SEEDS = Protocol(
    episodes=256,
    split="validation",
    seeds=(0, 2, 4, 6),
    steps=50,
    guidance=1.5,
    metrics=("psnr", "ssim", "lpips"),
)
FOUR_SEEDS_FVD = replace(FOUR_SEEDS, context=36, frames=264, metrics=("fvd",))

WORLD_METRICS = ("psnr", "ssim", "drift", "revisit", "control")

_PROTOCOLS: dict[str, Protocol] = {
    "maze": Protocol(context=144, frames=156, episodes=64, split="test", metrics=WORLD_METRICS),
    # Its footage has no training split, from which control could be learned.
    "demo": Protocol(context=144, frames=156, episodes=8, split="demo", metrics=WORLD_METRICS[:-1]),
    # Short video prediction.
    "ucf101-prediction": replace(BEST_OF_100, context=4, frames=12),
    "ucf101-prediction-1": replace(BEST_OF_100, context=1, frames=15),  # the ablation of Table 6
    "bair-14": replace(BEST_OF_100, context=2, frames=14, split="validation"),
    "bair-28": replace(BEST_OF_100, context=2, frames=28, split="validation"),
    # Long video prediction. For its FVD the DMLab model was not told the actions.
    "dmlab": FOUR_SEEDS,
    "dmlab-fvd": replace(FOUR_SEEDS_FVD, guidance=0.0),
    "minecraft": FOUR_SEEDS,
    "minecraft-fvd": FOUR_SEEDS_FVD,
    # Video generation, guided as its preset says. It is held against what the model was trained on.
    "ucf101-generation": Protocol(
        context=0, frames=16, episodes=2048, split="train", seeds=(0, 2, 4, 6), steps=50, metrics=("fvd",)
    ),
}
PROTOCOLS = {name: replace(protocol, name=name) for name, protocol in _PROTOCOLS.items()}


def as_published(name: str) -> Protocol:
    """A protocol with the published script's choices where they differ from ours: which, says docs/paper.md."""
    # Of the UCF-101 test list the published loader takes every tenth clip, as the benchmark it follows does.
    every = 10 if name.startswith("ucf101-prediction") else 1
    return replace(PROTOCOLS[name], every=every, fvd_frames="all", scored="mp4", lpips_pixels="unit")


def preset_summary(preset: TokenizerConfig | WorldModelConfig) -> str:
    """A preset in a line, for a list of them."""
    if isinstance(preset, TokenizerConfig):
        model = preset.model
        return (
            f"{model.frame_size} pixels to {model.latent_size} x {model.latent_size} x {model.latent_channels} latents"
        )
    model, clip = preset.model, preset.clip
    kind = "Video DiT" if model.attention == "full" else "long" if model.coarse_patch else "short"
    frames = clip.frames if clip.min_frames is None else f"{clip.min_frames}-{clip.frames - 1}"
    every = f" (1 in {clip.interval})" if clip.interval > 1 else ""
    told = f", {model.classes} {model.condition}s" if model.condition != "none" else ""
    size = f"{kind}, {model.layers} layers of {model.width}"
    return f"{size}; clips of {frames} frames{every}{told}; {preset.train.steps:,} steps"


def protocol_summary(protocol: Protocol) -> str:
    """A protocol in a line, for a list of them."""
    seeds = f", seeds {' '.join(map(str, protocol.seeds))}" if len(protocol.seeds) > 1 else ""
    tries = f" x {protocol.trajectories}" if protocol.trajectories > 1 else ""
    metrics = ", ".join(protocol.metrics)
    return f"{protocol.context} -> {protocol.frames} frames, {protocol.episodes} episodes{tries}{seeds}; {metrics}"
