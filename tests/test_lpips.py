"""LPIPS against its definition; standard weights are found, fetched whole or not at all, and never guessed."""

import io
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextframe.errors import UserError
from nextframe.files import sha256
from nextframe.metrics import weights
from nextframe.metrics.lpips import Lpips
from nextframe.metrics.weights import STANDARD, weight_file

# The convolutions as they stand in torchvision's files: number -> (channels out, channels in, kernel, stride, padding).
VGG_NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG_CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG = {number: (VGG_CHANNELS[index + 1], VGG_CHANNELS[index], 3, 1, 1) for index, number in enumerate(VGG_NUMBERS)}
ALEX = {
    0: (64, 3, 11, 4, 2),
    3: (192, 64, 5, 1, 2),
    6: (384, 192, 3, 1, 1),
    8: (256, 384, 3, 1, 1),
    10: (256, 256, 3, 1, 1),
}
POOLED_BEFORE = {"vgg": (5, 10, 17, 24), "alex": (3, 6)}
SEEN_AFTER = {"vgg": (2, 7, 14, 21, 28), "alex": (0, 3, 6, 8, 10)}


@pytest.fixture(scope="session")
def standard_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in files with the names and the contents of the standard ones."""
    folder, random = tmp_path_factory.mktemp("weights"), torch.Generator().manual_seed(0)
    for trunk, convolutions in (("vgg", VGG), ("alex", ALEX)):
        features = {"classifier.0.weight": torch.zeros(2, 2)}
        for number, (wide, channels, kernel, _, _) in convolutions.items():
            weight = torch.randn(wide, channels, kernel, kernel, generator=random)
            features[f"features.{number}.weight"] = weight * (2 / (channels * kernel**2)) ** 0.5
            features[f"features.{number}.bias"] = 0.1 * torch.randn(wide, generator=random)
        heads = {
            f"lin{index}.model.1.weight": torch.rand(1, convolutions[number][0], 1, 1, generator=random)
            for index, number in enumerate(SEEN_AFTER[trunk])
        }
        torch.save(features, folder / {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}[trunk])
        torch.save(heads, folder / f"lpips-{trunk}.pth")
    return folder


@pytest.fixture
def vgg(standard_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Lpips:
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(standard_weights))
    return Lpips.load("vgg")


def pictures(count: int = 2, size: int = 32) -> Tensor:
    return 2 * torch.rand(count, 3, size, size) - 1


def by_definition(folder: Path, trunk: str, first: Tensor, second: Tensor) -> Tensor:
    """LPIPS of two pictures, straight from the files."""
    convolutions, file = (VGG, "vgg16-397923af.pth") if trunk == "vgg" else (ALEX, "alexnet-owt-7be5be79.pth")
    features, heads = torch.load(folder / file), torch.load(folder / f"lpips-{trunk}.pth")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (torch.stack([first, second]) - shift[:, None, None]) / scale[:, None, None]
    total, seen = torch.zeros(()), 0
    for number, (_, _, _, stride, padding) in convolutions.items():
        if number in POOLED_BEFORE[trunk]:
            x = F.max_pool2d(x, 2, 2) if trunk == "vgg" else F.max_pool2d(x, 3, 2)
        weight, bias = features[f"features.{number}.weight"], features[f"features.{number}.bias"]
        x = F.conv2d(x, weight, bias, stride, padding).clamp(min=0)
        if number in SEEN_AFTER[trunk]:
            unit = x / ((x**2).sum(1, keepdim=True).sqrt() + 1e-10)
            head = heads[f"lin{seen}.model.1.weight"].flatten()
            total = total + torch.einsum("c,chw->hw", head, (unit[0] - unit[1]) ** 2).mean()
            seen += 1
    assert seen == 5
    return total


@pytest.mark.parametrize("trunk", ["vgg", "alex"])
def test_it_is_its_definition(trunk, standard_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(standard_weights))
    size = 32 if trunk == "vgg" else 64
    first, second = pictures(2, size), pictures(2, size)
    expected = [by_definition(standard_weights, trunk, *pair) for pair in zip(first, second, strict=True)]
    torch.testing.assert_close(Lpips.load(trunk)(first, second), torch.stack(expected), atol=1e-6, rtol=1e-5)


def test_equal_pictures_have_no_distance_and_noise_adds_to_it(vgg: Lpips) -> None:
    picture, noise = pictures(1), torch.randn(1, 3, 32, 32)
    distances = [vgg(picture, picture + amount * noise).item() for amount in (0, 0.05, 0.2, 0.8)]
    assert distances[0] == 0
    assert distances == sorted(set(distances))


def test_autocast_does_not_touch_it(vgg: Lpips) -> None:
    first, second = pictures(1), pictures(1)
    plain = vgg(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(vgg(first, second), plain)


def test_only_the_picture_gets_a_gradient(vgg: Lpips) -> None:
    picture = pictures(1).requires_grad_()
    vgg(picture, pictures(1)).mean().backward()
    assert picture.grad is not None and picture.grad.abs().sum() > 0
    assert all(weight.grad is None and not weight.requires_grad for weight in vgg.parameters())


def test_missing_weights_are_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(weights.urllib.request, "urlopen", unreachable)
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(UserError) as refused:
        Lpips.load("vgg")
    message = str(refused.value)
    assert str(tmp_path / "weights" / "vgg16-397923af.pth") in message and STANDARD["vgg16"].url in message
    assert "curl --fail --location --create-dirs --output" in message
    assert "no network" in message and "\n" not in message
    assert not list((tmp_path / "weights").iterdir())


class Response(io.BytesIO):
    """What urlopen returns."""

    headers: dict[str, str]


def serve(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let every address lead to `content`; returns how often it was asked for."""
    asked = 0

    def urlopen(*_: object, **__: object) -> Response:
        nonlocal asked
        asked += 1
        response = Response(content)
        response.headers = {"Content-Length": str(len(content))}
        return response

    monkeypatch.setattr(weights.urllib.request, "urlopen", urlopen)
    return lambda: asked


def test_a_damaged_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(b"half of a file", monkeypatch)
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(UserError, match=r"vgg16-397923af\.pth is missing .*damaged: sha256 [0-9a-f]{8}, not 397923af"):
        weight_file("vgg16")
    assert not list((tmp_path / "weights").iterdir())


def test_weights_are_fetched_once(standard_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = standard_weights / "lpips-vgg.pth"
    known = STANDARD["lpips-vgg"]._replace(sha256=sha256(heads))
    monkeypatch.setitem(STANDARD, "lpips-vgg", known)
    monkeypatch.delenv("NEXTFRAME_WEIGHTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for other in ("XDG_CACHE_HOME", "NEXTFRAME_CACHE"):
        monkeypatch.delenv(other, raising=False)
    asked = serve(heads.read_bytes(), monkeypatch)
    path = weight_file("lpips-vgg")
    assert path == tmp_path / ".cache/nextframe/weights/lpips-vgg.pth" and path.read_bytes() == heads.read_bytes()
    assert weight_file("lpips-vgg") == path and asked() == 1


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x80\x02half", b"PK\x03\x04zip"])
def test_a_damaged_file_is_refused(
    content: bytes, standard_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in standard_weights.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "lpips-vgg.pth").unlink()
    (tmp_path / "lpips-vgg.pth").write_bytes(content)
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"lpips-vgg\.pth is damaged"):
        Lpips.load("vgg")


def test_weights_of_another_network_are_refused(
    standard_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alexnet-owt-7be5be79.pth").symlink_to(standard_weights / "alexnet-owt-7be5be79.pth")
    (tmp_path / "lpips-alex.pth").symlink_to(standard_weights / "lpips-vgg.pth")
    monkeypatch.setenv("NEXTFRAME_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"lpips-alex\.pth is of another network"):
        Lpips.load("alex")
