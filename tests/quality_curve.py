"""What training time buys: python tests/quality_curve.py DATA OUT MINUTES=RUN [MINUTES=RUN ...]

The runs, each trained to its end (a rate that fell to zero: copies from the middle of a run are worse than their time),
predict the same 16 frames of the first mazes of DATA. OUT.json has the scores and the loss at the end of each run,
OUT.png the curves, with the straight line over the logarithm of time that fits the PSNR best, the power of time that
fits the loss, and where ten times the longest run would lead on both. Finished predictions are kept in OUT. A model
without a log (an exported one) is drawn, and not fitted.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nextframe.evaluate import evaluate
from nextframe.presets import PROTOCOLS

MAZES = 64
LAST = 0.1
"""The part of a run whose losses are averaged."""
BLUE, GREY = "#2a6fdb", "#888888"


def point(minutes: float, run: Path, data: Path, out: Path) -> dict[str, float]:
    protocol = replace(PROTOCOLS["maze"], name="", metrics=("psnr", "ssim"), episodes=MAZES, frames=16)
    found = evaluate(protocol, run, data, out / f"{minutes:g}", "cpu", batch=16)
    scores = {f"{who} {name}": found.scores[who][name].early.mean for who in found.scores for name in ("psnr", "ssim")}
    if not (run / "metrics.jsonl").exists():
        return {"minutes": minutes, **scores}
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [one["loss"] for one in logged if "loss" in one and one["step"] > (1 - LAST) * logged[-1]["step"]]
    return {"minutes": minutes, "steps": logged[-1]["step"], "loss": float(np.mean(losses)), **scores}


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, str]:
    """Start and slope of the line that fits best; and the slope with its standard error, where it has one."""
    if len(x) < 4:  # two parameters and one point more tell no error worth a name
        slope, start = np.polyfit(x, y, 1)
        return float(start), float(slope), f"{slope:.2f}"
    (slope, start), covariance = np.polyfit(x, y, 1, cov=True)
    return float(start), float(slope), f"{slope:.2f} +- {covariance[0, 0] ** 0.5:.2f}"


def draw(path: Path, points: list[dict[str, float]]) -> str:
    fitted, others = ([one for one in points if ("loss" in one) == logged] for logged in (True, False))
    minutes, psnr, loss = (np.array([one[name] for one in fitted]) for name in ("minutes", "model psnr", "loss"))
    start, slope, rise = line(np.log10(minutes), psnr)
    loss_start, power, fall = line(np.log10(minutes), np.log10(loss))
    far = np.geomspace(minutes.min(), 10 * minutes.max(), 50)
    ahead = [f"{start + slope * np.log10(one['minutes']):.1f} dB, measured {one['model psnr']:.1f}" for one in others]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), dpi=150)
    left.plot(far, start + slope * np.log10(far), color=BLUE, linewidth=1, linestyle="--")
    left.plot(minutes, psnr, color=BLUE, marker="o", markersize=4, linewidth=0, label="the model")
    if others:
        left.plot(
            [one["minutes"] for one in others],
            [one["model psnr"] for one in others],
            color=BLUE,
            marker="o",
            markersize=5,
            linewidth=0,
            markerfacecolor="white",
            label="the shipped model, not fitted",
        )
    for name, style in (("context_mean", "-"), ("repeat_last", ":")):
        if f"{name} psnr" in points[0]:
            left.axhline(points[0][f"{name} psnr"], color=GREY, linestyle=style, label=name.replace("_", " "))
    left.set_ylabel(f"PSNR of frames 1-16, dB ({MAZES} mazes)")
    left.legend(frameon=False)
    right.plot(far, 10 ** (loss_start + power * np.log10(far)), color=BLUE, linewidth=1, linestyle="--")
    right.plot(minutes, loss, color=BLUE, marker="o", markersize=4, linewidth=0)
    right.set_yscale("log")
    right.set_ylabel("loss at the end of the run")
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xlabel("minutes of training")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
    return (
        f"ten times the time: {rise} dB, the loss times {10**power:.2f} (power {fall}); "
        f"ten times the longest run: {start + slope * np.log10(far[-1]):.1f} dB, "
        f"loss {10 ** (loss_start + power * np.log10(far[-1])):.3f}; of the others it says: {'; '.join(ahead)}"
    )


def main() -> None:
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    data, out = map(Path, sys.argv[1:3])
    points = []
    for given in sys.argv[3:]:
        minutes, _, run = given.partition("=")
        points.append(point(float(minutes), Path(run), data, out))
        print(points[-1], flush=True)
        out.with_suffix(".json").write_text(json.dumps(points, indent=1))
    print(draw(out.with_suffix(".png"), sorted(points, key=lambda one: one["minutes"])))


if __name__ == "__main__":
    main()
