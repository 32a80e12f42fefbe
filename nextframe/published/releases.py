"""The published checkpoints: the files of the hub repository guyuchao/FAR_Models, by name."""

import re
from dataclasses import dataclass
from pathlib import PurePath

REPOSITORY = "guyuchao/FAR_Models"


@dataclass(frozen=True)
class Release:
    """One published transformer."""

    preset: str
    """The preset that trains the same."""
    autoencoder: str
    """File of the autoencoder its latents were made with, in `dcae/` of the repository."""


# By the file's name, without the hash at its end.
TRANSFORMERS = {
    "FAR_L_UCF101_Uncond128": Release("ucf101-128", "DCAE_UCF101_Res128-bb9d1258.pth"),
    "FAR_L_UCF101_Cond128": Release("ucf101-128-labels", "DCAE_UCF101_Res128-bb9d1258.pth"),
    "FAR_L_UCF101_Uncond256": Release("ucf101-256", "DCAE_UCF101_Res256-9c4355c8.pth"),
    "FAR_L_UCF101_Cond256": Release("ucf101-256-labels", "DCAE_UCF101_Res256-9c4355c8.pth"),
    "FAR_XL_UCF101_Uncond256": Release("ucf101-256-xl", "DCAE_UCF101_Res256-9c4355c8.pth"),
    "FAR_XL_UCF101_Cond256": Release("ucf101-256-xl-labels", "DCAE_UCF101_Res256-9c4355c8.pth"),
    "FAR_B_UCF101_Uncond64": Release("ucf101-64", "DCAE_UCF101_Res64-9da18dcf.pth"),
    "FAR_B_BAIR_Uncond64": Release("bair-64", "DCAE_BAIR_Res64-1a8547fb.pth"),
    "FAR_B_Long_DMLab_Action64": Release("dmlab-64", "DCAE_DMLab_Res64-17035ae5.pth"),
    "FAR_M_Long_Minecraft_Action128": Release("minecraft-128", "DCAE_Minecraft_Res128-a5677f66.pth"),
}


def name_and_hash(path: PurePath | str) -> tuple[str, str | None]:
    """A file's name without, and the beginning of its sha256 (torch hub's habit); None where the name ends in none.

    `dcae/DCAE_BAIR_Res64-1a8547fb.pth` -> ("DCAE_BAIR_Res64", "1a8547fb")
    """
    stem = PurePath(path).stem
    match = re.fullmatch(r"(.+)-([0-9a-fA-F]{8,64})", stem)
    return (match[1], match[2].lower()) if match else (stem, None)


def release_of(path: PurePath | str) -> Release | None:
    """The published transformer that a file is by its name, if any."""
    return TRANSFORMERS.get(name_and_hash(path)[0])
