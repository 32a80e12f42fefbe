"""What this machine can do, what is missing, and how to get it."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import torch

from nextframe.checkpoint import CONFIG
from nextframe.devices import has_bfloat16, matrix_rate, resolve_device
from nextframe.memory import available_memory
from nextframe.metrics.lpips import FILES
from nextframe.metrics.weights import Name, place_of
from nextframe.presets import PRETRAINED

OPTIONAL = {
    "vizdoom": ("recording mazes", "maze"),
    "gymnasium": ("recording environments", "gym"),
    "ale-py": ("recording Atari games", "gym"),
    "fastapi": ("playing in the browser", "play"),
    "uvicorn": ("playing in the browser", "play"),
    "websockets": ("playing in the browser", "play"),
    "torchmetrics": ("PSNR and SSIM", "report"),
    "matplotlib": ("the curves of reports and of watch", "report"),
    "tensorboard": ("TensorBoard logs", "tensorboard"),
}
"""Package -> (what it is for, the extra that brings it)."""


def doctor() -> None:
    """Print the findings; a line that begins with `!` is something to do."""
    lines = [*machine(), *accelerators(), *packages(), *weights(), *model()]
    print("\n".join(lines))


def machine() -> list[str]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    memory = available_memory() / 2**30
    lines = [
        f"  Python {platform.python_version()}, torch {torch.__version__}, {platform.system()} {platform.machine()}",
        f"  {os.cpu_count()} cores, {memory:.0f} GiB of free memory, {free:.0f} GiB free on this disk",
    ]
    return (
        lines if free > 5 else [*lines, "! less than 5 GiB of disk are free: a training run keeps several checkpoints"]
    )


def accelerators() -> list[str]:
    """The devices that would be used, and the rate of their matrix products."""
    lines = []
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    for device in map(resolve_device, names):
        what = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
        kinds = [torch.float32, *([torch.bfloat16] if has_bfloat16(device) else [])]
        rates = ", ".join(f"{matrix_rate(device, kind):.2f} TFLOP/s in {str(kind)[6:]}" for kind in kinds)
        lines.append(f"  {device}: {what}, {rates}")
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        install = 'rm -rf .venv; make setup TORCH="torch==2.13.0 --extra-index-url ..." with the build for its driver'
        lines.append(f"! there is an NVIDIA GPU, but this torch cannot use it: {install}")
    return lines


def packages() -> list[str]:
    lines = []
    for name, (purpose, extra) in OPTIONAL.items():
        try:
            lines.append(f"  {name} {importlib.metadata.version(name)}: {purpose}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"! {name} is missing ({purpose}): pip install 'nextframe[{extra}]'")
    return lines


def weights() -> list[str]:
    """Of metrics and losses: they are fetched when they are needed, so none is a fault."""
    uses: dict[str, tuple[Name, ...]] = {"LPIPS": FILES["alex"], "FVD": ("i3d",), "LPIPS as a loss": FILES["vgg"]}
    lines = []
    for use, names in uses.items():
        missing = [place_of(name).name for name in names if not place_of(name).is_file()]
        where = f"not here yet: {', '.join(missing)}; fetched when first asked for" if missing else "here"
        lines.append(f"  weights of {use}: {where}")
    return lines


def model() -> list[str]:
    if (PRETRAINED / CONFIG).exists():
        return [f"  default model: {PRETRAINED}"]
    return [f"! the default model is missing ({PRETRAINED}): install nextframe again"]
