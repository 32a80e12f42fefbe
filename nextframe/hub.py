"""Models by name: a folder here, or a repository of the Hugging Face hub, fetched when it is first asked for."""

import re
from pathlib import Path

from nextframe.errors import UserError, reason_of
from nextframe.files import cache_folder, new_folder, sha256
from nextframe.published.releases import REPOSITORY, name_and_hash, release_of

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}(?<!\.pth)(?<!\.safetensors)")
_FILE = re.compile(rf"({_PART}/{_PART})/((?:{_PART}/)*{_PART}\.(?:pth|safetensors))")


def local_run(name: Path | str) -> Path:
    """The folder of a run.

    `name`: a folder; or `owner/name` of a hub repository that is a run; or `owner/name/path/FILE.pth`, a published
    model, which is downloaded (a transformer with its autoencoder) and converted, once. Raises UserError in one line
    when there is no such thing, or no network to get it by.
    """
    path, name = Path(name), str(name)
    if path.is_dir():
        return path
    if path.is_file():
        raise UserError(f"{path} is a file: make a run of it with nextframe convert {path} --out RUN")
    repository, file = _REPOSITORY.fullmatch(name), _FILE.fullmatch(name)
    # A first part that is a folder here begins a path with a typing error in it, not a name on the hub.
    if not (repository or file) or Path(path.parts[0]).exists():
        raise UserError(f"{path} is not a run: there is no such folder (nor is it a name on the hub, owner/name)")
    if file:
        return _converted(file[1], file[2])
    if name == REPOSITORY:
        raise UserError(f"{name} holds many models: name a file in it, {name}/FOLDER/FAR_....pth")
    folder = _download(
        name, ["config.yaml", "weights.safetensors", "metadata.json", "autoencoder/*"], "name the folder they are in"
    )
    if not (folder / "config.yaml").exists():
        raise UserError(
            f"{name} is not a run: the repository has no config.yaml; published files are converted one by one"
        )
    return folder


def _converted(repository: str, file: str) -> Path:
    """The run made of a published file, and of the autoencoder that belongs to it."""
    run = cache_folder() / repository.replace("/", "--") / file
    hashed = name_and_hash(file)[1] is not None
    if hashed and run.exists():  # as the names of published files are: what is here stays right
        return run
    release = release_of(file)
    files = [file] if release is None else [file, f"dcae/{release.autoencoder}"]
    folder = _download(repository, files, "make a run of it with nextframe convert, and name that")
    for wanted in files:
        if not (folder / wanted).exists():
            raise UserError(f"{repository} has no {wanted}: look at https://huggingface.co/{repository}/tree/main")
    if not hashed:
        run /= sha256(folder / file)[:16]
        if run.exists():
            return run

    from nextframe.config import WorldModelConfig
    from nextframe.published.runs import add_autoencoder, read_published, write_run  # imports torch

    model = read_published(folder / file)
    if isinstance(model.config, WorldModelConfig) and release is None:
        raise UserError(
            f"which autoencoder belongs to {repository}/{file} is not known: download both, then "
            "nextframe convert FILE --autoencoder DCAE_FILE --out RUN"
        )
    try:
        with new_folder(run) as temporary:
            write_run(model, temporary)
            if release is not None:
                add_autoencoder(temporary, folder / files[1])
    except UserError:
        if not run.exists():  # else another process was faster
            raise
    return run


def _download(repository: str, files: list[str], way_out: str) -> Path:
    """The folder of a snapshot with these files (patterns) of a repository, as many of them as there are."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(repository, allow_patterns=files))
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"{repository} is not a run: there is no such folder, and the hub has no such repository (or only with a "
            "token: hf auth login)"
        ) from None
    except LocalEntryNotFoundError:
        reason = "there is no network, or the hub cannot be reached"
    except (HfHubHTTPError, EntryNotFoundError, OSError) as error:
        reason = reason_of(error)
    raise UserError(
        f"{repository} is no folder here, and cannot be downloaded ({reason}): "
        f"fetch {', '.join(files)} from https://huggingface.co/{repository} elsewhere, and {way_out}"
    )
