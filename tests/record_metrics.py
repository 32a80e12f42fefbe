"""Records what other implementations of the metrics say, so that nobody has to install them to test against them.

`python tests/record_metrics.py` writes tests/recorded/metrics.json. It needs torch, torchmetrics, scikit-image, scipy
and lpips (which needs torchvision). The inputs come from seeds, here and in tests/test_recorded.py.
"""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

RECORDED = Path(__file__).parent / "recorded" / "metrics.json"
ALEXNET = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
VGG16 = {
    **{0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)},
    **{17: (512, 256), **dict.fromkeys((19, 21, 24, 26, 28), (512, 512))},
}
TRUNKS = {"alex": ALEXNET, "vgg": {number: (*channels, 3) for number, channels in VGG16.items()}}
"""Convolutions by their number in torchvision's network: channels out, channels in, kernel."""
SLICES = {"alex": (0, 3, 6, 8, 10), "vgg": (0, 5, 10, 17, 24)}
"""With which of them a slice of the lpips package begins."""
FEATURES = {"many": (300, 200, 24), "as many": (30, 30, 24), "fewer": (16, 12, 24)}
"""Sets of features for a Fréchet distance: how many, how many others, of what length."""


def videos() -> tuple[np.ndarray, np.ndarray]:
    """Smooth pictures and the same with more and more noise: uint8 [6, 64, 64, 3], twice."""
    random = np.random.RandomState(0)
    waves = random.uniform(0.02, 0.3, (6, 2, 3)), random.uniform(0, 6, (6, 1, 1, 3))
    rows, columns = np.mgrid[:64, :64]
    phase = rows[None, ..., None] * waves[0][:, None, None, 0] + columns[None, ..., None] * waves[0][:, None, None, 1]
    clean = 127 + 100 * np.sin(phase + waves[1])
    noisy = clean + random.normal(size=clean.shape) * np.array([1, 4, 10, 25, 60, 120])[:, None, None, None]
    return tuple(np.rint(video).clip(0, 255).astype(np.uint8) for video in (clean, noisy))  # pyright: ignore


def features(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of correlated numbers, float64."""
    count, others, length = FEATURES[kind]
    random = np.random.RandomState(1)
    mixed = random.normal(size=(length, length)) / length**0.5
    return random.normal(size=(count, length)) @ mixed, 0.3 + 1.5 * random.normal(size=(others, length)) @ mixed


def stand_in_weights(trunk: str) -> dict[str, np.ndarray]:
    """Weights of the convolutions of AlexNet or VGG16 and of the heads of LPIPS that nobody trained, float32."""
    random, weights = np.random.RandomState(2), {}
    for number, (wide, channels, kernel) in TRUNKS[trunk].items():
        scale = (2 / (channels * kernel**2)) ** 0.5
        weights[f"features.{number}.weight"] = random.normal(size=(wide, channels, kernel, kernel)) * scale
        weights[f"features.{number}.bias"] = random.normal(size=wide) * 0.1
    wide_of_slice = {_slice_of(trunk, number): wide for number, (wide, *_) in TRUNKS[trunk].items()}
    for index, wide in enumerate(wide_of_slice.values()):
        weights[f"lin{index}.model.1.weight"] = random.uniform(size=(1, wide, 1, 1))
    return {name: value.astype(np.float32) for name, value in weights.items()}


def _slice_of(trunk: str, number: int) -> int:
    """Of the lpips package, from 1."""
    return sum(first <= number for first in SLICES[trunk])


def by_lpips(trunk: str, one: np.ndarray, other: np.ndarray) -> list[float]:
    import lpips  # pyright: ignore[reportMissingImports]
    import torch

    network = lpips.LPIPS(net=trunk, pretrained=False, pnet_rand=True, verbose=False)
    weights = {name: torch.from_numpy(value) for name, value in stand_in_weights(trunk).items()}
    named = {
        f"net.slice{_slice_of(trunk, int(name.split('.')[1]))}.{name.removeprefix('features.')}": value
        for name, value in weights.items()
        if name.startswith("features")
    }
    named |= {name: value for name, value in weights.items() if name.startswith("lin")}
    unset = network.load_state_dict(named, strict=False)
    assert not unset.unexpected_keys and all(name.startswith(("scaling", "lins")) for name in unset.missing_keys)
    pixels = [torch.from_numpy(video).float().movedim(-1, 1) / 127.5 - 1 for video in (one, other)]
    with torch.no_grad():
        return network(*pixels).flatten().tolist()


def by_scipy(one: np.ndarray, other: np.ndarray) -> float:
    from scipy.linalg import sqrtm  # pyright: ignore[reportMissingImports]

    covariances = [np.cov(found, rowvar=False) for found in (one, other)]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    means = np.square(one.mean(0) - other.mean(0)).sum()
    return float(means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root))


def record() -> dict[str, Any]:
    import torch
    from skimage.metrics import (  # pyright: ignore[reportMissingImports]
        peak_signal_noise_ratio,
        structural_similarity,
    )
    from torchmetrics.functional import image

    one, other = videos()
    pairs = list(zip(one, other, strict=True))
    tensors = [torch.from_numpy(video).float().movedim(-1, 1).contiguous() for video in (one, other)]
    psnr = image.peak_signal_noise_ratio(tensors[0], tensors[1], data_range=255.0, reduction="none", dim=(1, 2, 3))
    ssim = image.structural_similarity_index_measure(tensors[0], tensors[1], data_range=255.0, reduction="none")
    assert isinstance(ssim, torch.Tensor)
    # scikit-image leaves out the border of a window's reach; torchmetrics mirrors the picture there, and counts it all.
    beyond = ((5, 5), (5, 5), (0, 0))
    mirrored = [tuple(np.pad(frame, beyond, mode="reflect") for frame in pair) for pair in pairs]
    as_published = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    return {
        "made by": "tests/record_metrics.py, which also makes the inputs",
        "note": "SSIM of scikit-image: of pictures mirrored 5 pixels beyond their borders, as torchmetrics does inside",
        "versions": {name: _version(name) for name in ("torchmetrics", "scikit-image", "scipy", "lpips", "numpy")},
        "psnr": {
            "torchmetrics": psnr.tolist(),
            "scikit-image": [float(peak_signal_noise_ratio(b, a, data_range=255)) for a, b in pairs],
        },
        "ssim": {
            "torchmetrics": ssim.tolist(),
            "scikit-image": [float(structural_similarity(a, b, data_range=255, **as_published)) for a, b in mirrored],
        },
        "lpips": {trunk: by_lpips(trunk, one, other) for trunk in TRUNKS},
        "frechet distance": {"scipy": {kind: by_scipy(*features(kind)) for kind in FEATURES}},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "from its repository, version 0.1 of the metric"


if __name__ == "__main__":
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text(json.dumps(record(), indent=1) + "\n")
