"""Standard weights that others trained and the project cannot ship: found on this machine, or fetched and verified."""

import http.client
import os
import shlex
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from nextframe.errors import UserError
from nextframe.files import cache_folder, new_file, sha256
from nextframe.progress import progress

FOLDER_VARIABLE = "NEXTFRAME_WEIGHTS"
"""Environment variable that names a folder of weight files."""
CHUNK = 2**20
TIMEOUT = 30.0
"""Seconds without a word from the other side."""

Name = Literal["vgg16", "alexnet", "lpips-vgg", "lpips-alex", "i3d"]


class Standard(NamedTuple):
    file: str
    sha256: str
    """The first digits at least; torchvision writes eight of them into its file names."""
    url: str


_TORCHVISION = "https://download.pytorch.org/models"
_LPIPS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
STANDARD: dict[Name, Standard] = {
    "vgg16": Standard("vgg16-397923af.pth", "397923af", f"{_TORCHVISION}/vgg16-397923af.pth"),
    "alexnet": Standard("alexnet-owt-7be5be79.pth", "7be5be79", f"{_TORCHVISION}/alexnet-owt-7be5be79.pth"),
    # The digests of the files in the repository of LPIPS, commit 082bb24.
    "lpips-vgg": Standard(
        "lpips-vgg.pth", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868", f"{_LPIPS}/vgg.pth"
    ),
    "lpips-alex": Standard(
        "lpips-alex.pth", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0", f"{_LPIPS}/alex.pth"
    ),
    # The digest that StyleGAN-V's users check this address against (several public scripts agree).
    "i3d": Standard(
        "i3d_torchscript.pt",
        "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
    ),
}


def weight_file(name: Name) -> Path:
    """The file of these weights: in $NEXTFRAME_WEIGHTS, or in the cache of downloads, or downloaded now.

    Raises UserError when it is nowhere and cannot be downloaded whole; nothing half is left behind.
    """
    path = place_of(name)
    return path if path.is_file() else _download(STANDARD[name], path)


def place_of(name: Name) -> Path:
    """Where these weights are, or will be put."""
    named = os.environ.get(FOLDER_VARIABLE)
    folders = ([Path(named).expanduser()] if named else []) + [cache_folder() / "weights"]
    paths = [folder / STANDARD[name].file for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def weight_files(*names: Name) -> list[Path]:
    """`weight_file` of each; what is missing is said of all of them at once."""
    found, missing = [], []
    for name in names:
        try:
            found.append(weight_file(name))
        except UserError as error:
            missing.append(str(error))
    if missing:
        raise UserError("; ".join(missing))
    return found


def fingerprint(*names: Name) -> str:
    """What these weights are, for the record: `sha256 1234...`, of each file."""
    return "sha256 " + " and ".join(sha256(weight_file(name)) for name in names)


def _download(standard: Standard, path: Path) -> Path:
    with new_file(path) as temporary:
        with temporary.open("wb") as file:
            for chunk in _chunks(standard, path):
                file.write(chunk)
        found = sha256(temporary)
        if not found.startswith(standard.sha256):
            raise _unavailable(standard, path, f"what came is damaged: sha256 {found[:8]}, not {standard.sha256[:8]}")
    return path


def _chunks(standard: Standard, path: Path) -> Iterator[bytes]:
    # Only reading is inside the try: what goes wrong in writing is no fault of the network.
    try:
        with urllib.request.urlopen(standard.url, timeout=TIMEOUT) as response:
            size = int(response.headers.get("Content-Length") or 0)
            with progress(f"downloading {standard.file}", max(size, 1)) as advance:
                while chunk := response.read(CHUNK):
                    yield chunk
                    advance(len(chunk))
    except (OSError, http.client.HTTPException) as error:
        raise _unavailable(standard, path, str(getattr(error, "reason", error))) from error


def _unavailable(standard: Standard, path: Path, reason: str) -> UserError:
    fetch = f"curl --fail --location --create-dirs --output {shlex.quote(str(path))} {shlex.quote(standard.url)}"
    way_out = f"{fetch}   (its sha256 begins with {standard.sha256[:16]})"
    return UserError(f"{path} is missing and could not be downloaded ({reason}): {way_out}")
