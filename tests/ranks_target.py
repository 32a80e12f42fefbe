"""What two processes train in tests/test_ranks.py: torchrun tests/ranks_target.py FOLDER.

It takes nothing from conftest: checking shapes would take most of the time.
"""

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from nextframe import footprint, journal, ranks, recipes
from nextframe.architecture import AutoencoderConfig, TransformerConfig
from nextframe.config import ClipConfig, OptimizerConfig, SampleConfig, TokenizerConfig, TrainConfig, WorldModelConfig
from nextframe.discriminator import Discriminator
from nextframe.errors import Stopped, UserError
from nextframe.footprint import Demand
from nextframe.learner import Learner
from nextframe.recipes import train_preset

SHORT = TransformerConfig(latent_channels=3, latent_size=4, layers=2, heads=2, head_dim=16, rope_axes=(4, 6, 6))
LONG = replace(SHORT, coarse_patch=2, window=4, condition="action", classes=3)
TOKENIZER = AutoencoderConfig(
    frame_size=32,
    latent_channels=4,
    encoder_channels=(8, 8, 8),
    encoder_layers=(0, 1, 1),
    decoder_channels=(8, 8, 8),
    decoder_layers=(0, 1, 1),
    attention_stages=0,
    decoder_norm="rms_norm",
)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=3, gradient_clip=0.1)
EXAMINED = TrainConfig(steps=4, batch=8, device="cpu", precision="float32", log_every=1, optimizer=OPTIMIZER)
TRAIN = replace(EXAMINED, examine_minutes=None)  # one kind of training examined is enough: clips take most of the time
HALF, TWO_STEPS = 2, SampleConfig(steps=2)
FAR = WorldModelConfig(model=SHORT, clip=ClipConfig(frames=6, interval=2), train=EXAMINED, sample=TWO_STEPS)
LONG_CLIP = ClipConfig(frames=12, min_frames=3)
FAR_LONG = WorldModelConfig(
    model=LONG,
    clip=LONG_CLIP,
    clean_context=0.5,
    resampled_context=0.5,
    train=replace(TRAIN, accumulate=2),
    sample=TWO_STEPS,
)
MUON = replace(TRAIN, optimizer=replace(OPTIMIZER, algorithm="muon"))
WINDOWS = replace(FAR_LONG, clip=replace(LONG_CLIP, windows=2), train=MUON)
AUTOENCODER = TokenizerConfig(model=TOKENIZER, latent_noise=0.1, train=TRAIN)
JUDGED = replace(
    AUTOENCODER,
    model=replace(TOKENIZER, decoder_norm="batch_norm"),
    adversarial_weight=0.5,
    train=replace(TRAIN, steps=2, accumulate=2),
)
RUNS = {"far": FAR, "long": FAR_LONG, "windows": WINDOWS, "autoencoder": AUTOENCODER, "judged": JUDGED}


@contextmanager
def exactly(config: WorldModelConfig | TokenizerConfig) -> Iterator[None]:
    """Autoencoders are compared in float64.

    The gradient of |x| jumps at zero: where rounding moves one pixel over it, AdamW soon makes 1e-4 of that.
    """
    if isinstance(config, WorldModelConfig):
        yield
        return
    plain = recipes.Autoencoder, recipes.Discriminator, Learner.inputs, footprint.examples

    def inputs(self: Learner, step: int) -> dict[str, torch.Tensor]:
        return {name: x.double() for name, x in plain[2](self, step).items()}

    def examples(learner: Learner, demand: Demand, rows: int) -> list[dict[str, torch.Tensor]]:
        return [{name: x.double() for name, x in inputs.items()} for inputs in plain[3](learner, demand, rows)]

    def discriminator() -> Discriminator:
        made = plain[1]().double()
        made.register_forward_pre_hook(lambda _, given: (given[0].double(),))  # it is shown float32
        return made

    recipes.Autoencoder = lambda config: plain[0](config).double()
    recipes.Discriminator = discriminator
    Learner.inputs, footprint.examples = inputs, examples
    try:
        yield
    finally:
        recipes.Autoencoder, recipes.Discriminator, Learner.inputs, footprint.examples = plain


def trained(config: WorldModelConfig | TokenizerConfig, folder: Path, name: str) -> None:
    with exactly(config):
        train_preset(config, folder / ("footage" if isinstance(config, TokenizerConfig) else "latents"), folder / name)


def sharded(config: WorldModelConfig | TokenizerConfig) -> WorldModelConfig | TokenizerConfig:
    return replace(config, train=replace(config.train, shard=True))


def to_the_middle(config: WorldModelConfig) -> WorldModelConfig:
    return replace(config, train=replace(config.train, steps=HALF))


def equal(folder: Path) -> None:
    """Every kind of training, replicated and in pieces, and runs that were stopped, by one process or by two."""
    for name, config in RUNS.items():
        trained(config, folder, f"{name}-replicated")
        trained(sharded(config), folder, f"{name}-sharded")
    latents = folder / "latents"
    for name, config in (("replicated", FAR_LONG), ("sharded", sharded(FAR_LONG))):
        assert isinstance(config, WorldModelConfig)
        train_preset(config, latents, folder / f"from-one-to-two-{name}")
        for run in ("two", "from-two-to-one"):
            train_preset(to_the_middle(config), latents, folder / f"{run}-{name}")
        train_preset(config, latents, folder / f"two-{name}")
    try:
        train_preset(replace(FAR, train=replace(TRAIN, batch=5)), latents, folder / "odd")
    except UserError as error:
        (folder / f"refused-{ranks.rank()}").write_text(str(error))
    goes_on(folder)
    full(folder)
    broken(folder)


def goes_on(folder: Path) -> None:
    """In pieces, then replicated; and after the second process's piece of the newest checkpoint was damaged."""
    for run, steps, config in (
        ("chain", 1, sharded(FAR_LONG)),
        ("chain", 3, FAR_LONG),
        ("flipped", 2, sharded(FAR_LONG)),
        ("flipped", 3, sharded(FAR_LONG)),
        ("flipped", 4, sharded(FAR_LONG)),
    ):
        if steps == 4 and ranks.rank() == 1:
            (file,) = (folder / run / "checkpoints" / "00000003").glob("shard-00002-*-00002-of-00003.safetensors")
            content = bytearray(file.read_bytes())
            content[-5] ^= 1
            file.write_bytes(content)
        ranks.largest(0)
        train_preset(replace(config, train=replace(config.train, steps=steps)), folder / "latents", folder / run)


def full(folder: Path) -> None:
    """The disk of the second process alone."""
    plain = safetensors.torch.save

    def save(*given: Any, **named: Any) -> bytes:
        if ranks.rank() == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(*given, **named)

    safetensors.torch.save = save
    try:
        train_preset(
            replace(FAR, train=replace(TRAIN, steps=10_000, checkpoint_minutes=0)), folder / "latents", folder / "full"
        )
    except UserError as error:
        (folder / f"full-{ranks.rank()}").write_text(str(error))
    safetensors.torch.save = plain


def broken(folder: Path) -> None:
    """One of the two has a loss that is not a number, at two steps; then that one alone is asked to stop."""
    plain = Learner.inputs

    def inputs(self: Learner, step: int) -> dict[str, torch.Tensor]:
        made = plain(self, step)
        if step in (2, 4) and ranks.rank() == 1:
            made["target"][0, 0] = float("nan")
        if step == 5 and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return made

    Learner.inputs = inputs
    try:
        train_preset(replace(FAR, train=replace(TRAIN, steps=1000)), folder / "latents", folder / "broken")
    except Stopped:
        (folder / f"stopped-{ranks.rank()}").touch()


def lost(folder: Path, how: str) -> None:
    """The second process ends, or sleeps, in the middle of training."""
    plain = Learner.update

    def update(self: Learner, rate: float, step: int) -> torch.Tensor:
        if step == 2 and ranks.rank() == 1:
            if how == "gone":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return plain(self, rate, step)

    Learner.update = update
    try:
        train_preset(replace(FAR, train=replace(TRAIN, patience_minutes=0.2)), folder / "latents", folder / how)
    except UserError as error:
        (folder / f"{how}-{os.environ['RANK']}").write_text(str(error))


def both_lost(folder: Path) -> None:
    """Both, each in two processes that fork from this one: importing torch takes longer than all they do."""
    # Here, because the first of two would do both alone while the other waits for it.
    import torch.utils.tensorboard  # noqa: F401

    journal._rate_of = lambda *_: 1.0  # pyright: ignore
    for how in ("gone", "silent"):
        children, port = [], free_port()
        for number in range(2):
            if (child := os.fork()) == 0:
                os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                lost(folder, how)
                os._exit(0)
            children.append(child)
        os.waitpid(children[0], 0)
        os.kill(children[1], signal.SIGKILL)  # as torchrun does
        os.waitpid(children[1], 0)


def to_be_killed(latents: str, run: str, checkpoint_minutes: str) -> None:
    """One process, which saves often (tests/test_train.py)."""
    torch.set_num_threads(1)
    train = replace(TRAIN, steps=100, checkpoint_minutes=float(checkpoint_minutes))
    train_preset(replace(FAR_LONG, train=train), Path(latents), Path(run))


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    if not ranks.launched():
        both_lost(Path(sys.argv[1]))
    else:
        with ranks.process_group(torch.device("cpu"), 10):
            equal(Path(sys.argv[1]))
