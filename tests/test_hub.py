"""Models by their names on the Hugging Face hub."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_convert import DCAE, published_autoencoder, recorded, saved

import nextframe
from nextframe.checkpoint import CONFIG, WEIGHTS
from nextframe.config import TokenizerConfig
from nextframe.configfile import write_config
from nextframe.errors import UserError
from nextframe.files import sha256
from nextframe.hub import local_run
from nextframe.published.releases import REPOSITORY, TRANSFORMERS


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that is a folder of repositories, and an empty cache."""
    asked: list[str] = []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        asked.append(repository)
        assert len(asked) == 1, "what was converted once is not downloaded again"
        return str(tmp_path / "hub" / repository)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.delenv("NEXTFRAME_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "hub" / REPOSITORY / "dcae").mkdir(parents=True)
    return tmp_path / "hub"


def test_a_published_file_is_loaded_by_its_name_on_the_hub(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(recorded("far_action"), "FAR_B_Long_DMLab_Action64")
    network = published_autoencoder(replace(DCAE, encoder_channels=(8, 16, 32)))
    autoencoder = saved(network.state_dict(), "DCAE_DMLab_Res64")
    release = replace(TRANSFORMERS["FAR_B_Long_DMLab_Action64"], autoencoder=autoencoder.name)
    monkeypatch.setitem(TRANSFORMERS, "FAR_B_Long_DMLab_Action64", release)
    file.rename(hub / REPOSITORY / file.name)
    autoencoder.rename(hub / REPOSITORY / "dcae" / autoencoder.name)
    model = nextframe.load(f"{REPOSITORY}/{file.name}", "cpu")
    assert model.config.model.classes == 3 and model.autoencoder.config.latent_size == 8
    assert nextframe.load(Path(REPOSITORY) / file.name, "cpu").sha256 == model.sha256
    with pytest.raises(UserError, match="holds many models"):
        local_run(REPOSITORY)


def test_files_of_one_name_are_told_apart(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(hub))
    names = ("one/model.pth", "two/model.pth")
    for name in names:
        network = published_autoencoder(DCAE)
        (hub / name).parent.mkdir()
        torch.save(network.state_dict(), hub / name)
    one, two = (local_run(f"some/things/{name}") for name in names)
    assert sha256(one / WEIGHTS) != sha256(two / WEIGHTS)
    # A name that does not tell what is in it may stand for something else later.
    assert local_run("some/things/one/model.pth") == one
    (hub / names[1]).replace(hub / names[0])
    assert sha256(local_run("some/things/one/model.pth") / WEIGHTS) == sha256(two / WEIGHTS)


def test_a_file_that_is_not_on_the_hub(hub: Path) -> None:
    with pytest.raises(UserError, match=r"has no dcae/DCAE_BAIR_Res64-1a8547fb\.pth: look at https"):
        (hub / REPOSITORY / "FAR_B_BAIR_Uncond64-1983191b.pth").touch()
        local_run(f"{REPOSITORY}/FAR_B_BAIR_Uncond64-1983191b.pth")


def test_a_run_is_loaded_by_its_name_on_the_hub(hub: Path) -> None:
    write_config(TokenizerConfig(), hub / "somebody" / "world" / CONFIG)
    assert local_run(Path("somebody/world")) == hub / "somebody" / "world"


def test_a_path_with_a_typing_error_is_no_name_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    Path("runs").mkdir()
    for name in ("nowhere", "runs/maze", "/some/where", "../world", "a/b/c", "models/FAR.pth"):
        with pytest.raises(UserError, match="is not a run"):
            local_run(name)


def test_without_a_network_one_line_says_so(tmp_path: Path) -> None:
    started = time.monotonic()
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    file = "guyuchao/FAR_Models/long_video_prediction/FAR_B_Long_DMLab_Action64-c09441dc.pth"
    done = subprocess.run(
        [sys.executable, "-m", "nextframe", "evaluate", "maze", "--model", file, "--data", "data", "--out", "out"],
        capture_output=True,
        text=True,
        env=environment | {"XDG_CACHE_HOME": str(tmp_path), "no_proxy": "127.0.0.1"},
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    for words in ("there is no network", "dcae/DCAE_DMLab_Res64-17035ae5.pth", "nextframe convert"):
        assert words in done.stderr
    assert time.monotonic() - started < 60  # 3 s on an idle machine; hf_hub_download alone would try for 24
