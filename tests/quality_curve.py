"""What training time buys: python tests/quality_curve.py RUN DATA OUT MINUTES=WEIGHTS [MINUTES=WEIGHTS ...]

Copies of the weights of RUN, made while it trained, predict the same 16 frames of the first mazes of DATA. OUT.json has
the scores, OUT.png the curve, with the straight line over the logarithm of time that fits best, and where ten times the
time would lead on it.
"""

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nextframe.evaluate import evaluate
from nextframe.presets import PROTOCOLS

MAZES = 16
BLUE, GREY = "#2a6fdb", "#888888"


def scores(run: Path, weights: Path, data: Path) -> dict[str, float]:
    protocol = replace(PROTOCOLS["maze"], metrics=("psnr", "ssim"), episodes=MAZES, frames=16)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "weights.safetensors"))
        shutil.copytree(run / "autoencoder", copy / "autoencoder", dirs_exist_ok=True)
        shutil.copy(weights, copy / "weights.safetensors")
        found = evaluate(protocol, copy, data, Path(folder) / "out", "cpu").scores
    return {f"{who} {name}": found[who][name].early.mean for who in found for name in ("psnr", "ssim")}


def line(minutes: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Slope for ten times the minutes, its standard error, and the value after one minute."""
    x = np.log10(minutes)
    (slope, start), covariance = np.polyfit(x, values, 1, cov=True)
    return float(slope), float(covariance[0, 0] ** 0.5), float(start)


def draw(out: Path, points: list[dict[str, float]]) -> str:
    minutes, psnr = (np.array([point[name] for point in points]) for name in ("minutes", "model psnr"))
    slope, error, start = line(minutes, psnr)
    figure, axis = plt.subplots(figsize=(6.4, 3.6), dpi=150)
    far = np.geomspace(minutes.min(), 10 * minutes.max(), 50)
    axis.plot(far, start + slope * np.log10(far), color=BLUE, linewidth=1, linestyle="--")
    axis.plot(minutes, psnr, color=BLUE, marker="o", markersize=4, linewidth=0, label="the model")
    for name, style in (("context_mean", "-"), ("repeat_last", ":")):
        if f"{name} psnr" in points[0]:
            axis.axhline(points[0][f"{name} psnr"], color=GREY, linestyle=style, label=name.replace("_", " "))
    axis.set_xscale("log")
    axis.set_xlabel("minutes of training on two cores")
    axis.set_ylabel("PSNR of frames 1-16, dB")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out.with_suffix(".png"))
    return f"{slope:.2f} +- {error:.2f} dB for ten times the training, {start + slope * np.log10(far[-1]):.1f} dB then"


def main() -> None:
    run, data, out = map(Path, sys.argv[1:4])
    points = []
    for given in sys.argv[4:]:
        minutes, _, weights = given.partition("=")
        points.append({"minutes": float(minutes), **scores(run, Path(weights), data)})
        print(points[-1], flush=True)
        out.with_suffix(".json").write_text(json.dumps(points, indent=1))
    print(draw(out, sorted(points, key=lambda point: point["minutes"])))


if __name__ == "__main__":
    main()
