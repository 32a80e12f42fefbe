"""Broken files for every reader: tests/fuzz.py CASES [SEED [READER ...]].

Each reader works in a process of its own, which forks from this one. A case has so much time and memory; it must end
in a result, or in a line that names the file. Files outside the folder of the case are not opened. What went wrong
otherwise is printed, a JSON line each, and the count of all cases last.
"""

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import AUTOENCODER, SHORT
from damage import damaged
from PIL import Image
from ranks_target import FAR_LONG
from tiny import kept, random_autoencoder, tiny_episodes, tiny_i3d, tiny_latents, tiny_run

from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import write_weights
from nextframe.config import TokenizerConfig
from nextframe.configfile import read_config, write_config
from nextframe.data.actions import read_actions, vocabulary
from nextframe.data.cutting import Cut, episodes_of
from nextframe.data.episodes import DatasetInfo, EpisodeDataset
from nextframe.data.latents import LatentDataset
from nextframe.data.sources import find_sources, tables_of
from nextframe.data.video import lossless_mp4
from nextframe.demo import StageTimes, same_budget
from nextframe.errors import UserError
from nextframe.import_footage import USUAL_CUT, import_footage
from nextframe.import_latents import import_latents
from nextframe.journal import metrics_log, read_log
from nextframe.metadata import Metadata, write_metadata
from nextframe.metrics import control
from nextframe.metrics.fvd import VideoFeatures
from nextframe.metrics.lpips import _fill
from nextframe.pages.watch import watch_page
from nextframe.pieces import newest_checkpoint
from nextframe.published.names import to_published
from nextframe.published.recognise import autoencoder_to_published
from nextframe.published.runs import read_published
from nextframe.recipes import train_preset
from nextframe.results import Measured, Prediction, read_prediction, write_prediction
from nextframe.runs import load
from nextframe.transformer import Transformer
from nextframe.web.uploads import decoded_upload

SECONDS = 20
ADDRESS_SPACE = 3 * 2**30
"""More than there was before, in bytes."""
MEMORY = 2**30
"""The same, of what is really used."""
RAN = Path("/tmp/nextframe-was-run")
FEATURES = np.zeros((2, 4), np.float32)


@dataclass(frozen=True)
class Reader:
    """make: writes good files below a folder. read: reads them. share: of all cases, beside 1. names: whether its
    message names a file."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    share: float = 1.0
    names: bool = True


def make_episodes(folder: Path) -> None:
    tiny_episodes(folder / "data", count=2, frames=4)
    (folder / "data" / "link").symlink_to("../../outside.bin")


def read_episodes(folder: Path) -> None:
    dataset = EpisodeDataset.open(folder / "data")
    for info in dataset.episodes():
        dataset.info.action_texts(dataset.read(info).actions)
        dataset.is_there(info)
        dataset.digest(info)


def make_latents(folder: Path) -> None:
    tiny_latents(folder / "data", mirrored=True, labels=2)
    (folder / "data" / "link").symlink_to("../../outside.bin")


def read_latents(folder: Path) -> None:
    dataset = LatentDataset(folder / "data")
    for episode in dataset.episodes("train"):
        dataset.latents(episode, 1, 4, 2)
        dataset.latents(episode, 0, episode.frames, mirrored=dataset.index.mirrored)
        dataset.actions(episode)


def make_configs(folder: Path) -> None:
    write_config(FAR_LONG, folder / "world.yaml")
    write_config(TokenizerConfig(model=AUTOENCODER), folder / "autoencoder.yaml")


def read_configs(folder: Path) -> None:
    for path in sorted(folder.glob("*.yaml")):
        read_config(path)


def make_run(folder: Path) -> None:
    tiny_run(folder / "run")
    write_metadata(Metadata(10.0, ("left", "right"), ("a", "b")), folder / "run")


def make_checkpoints(folder: Path) -> None:
    latents = folder.parent / "latents-of-the-checkpoints"
    tiny_latents(latents)
    random_autoencoder(latents, AUTOENCODER)
    config = replace(FAR_LONG, train=replace(FAR_LONG.train, checkpoint_minutes=0.0))
    train_preset(config, latents, folder / "run")
    for path in (folder / "run").iterdir():
        if path.is_file():
            path.unlink()


def read_checkpoints(folder: Path) -> None:
    found = newest_checkpoint(folder / "run")
    assert found is not None and isinstance(found.position.step, int), "what is damaged was taken for whole"
    kept(found.path)


def make_log(folder: Path) -> None:
    lines = [{"step": step, "loss": 0.5, "skipped": 0, "seconds": 1.0, "seconds_per_step": 0.5} for step in range(5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def go_on_with_log(folder: Path) -> None:
    with metrics_log(folder, 3, FAR_LONG.train) as log:
        log({"step": 4, "loss": 0.5})
    read_log(folder)


def make_published(folder: Path, suffix: str) -> None:
    weights = to_published(Transformer(SHORT).state_dict(), SHORT)
    others = autoencoder_to_published(Autoencoder(AUTOENCODER).state_dict())
    for name, content in (("far", weights), ("dcae", others)):
        if suffix == ".pth":
            torch.save(content, folder / f"{name}.pth")
        else:
            write_weights(folder / f"{name}.safetensors", content)


def read_all_published(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        read_published(path, 4)


def make_actions(folder: Path) -> None:
    (folder / "ids.csv").write_text("frame,action\n0,left\n1,right\n2,left\n")
    (folder / "numbers.csv").write_text("time,x,y\n0.0,1,2\n0.1,3,4.5\n")
    (folder / "a.jsonl").write_text('{"action": 1}\n{"action": 0}\n')
    (folder / "b.jsonl").write_text('{"x": 1.5, "y": 0}\n{"x": 0, "y": 2}\n')
    np.savez(folder / "c.npz", actions=np.zeros((4, 2)), action_names=np.array(["x", "y"]))
    np.save(folder / "d.npy", np.arange(5))


def read_all_actions(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        table = read_actions(path)
        words = vocabulary([table])
        words.actions(table, np.arange(len(table)))


def make_list(folder: Path) -> None:
    (folder / "walk.mp4").touch()
    (folder / "walk.csv").write_text("action\n1\n0\n")
    entry = {"video_path": "walk.mp4", "action_path": "walk.csv", "label": 0}
    (folder / "train.json").write_text(json.dumps([entry, {"video_path": "b/walk.mp4", "label": "x"}]))


def read_list(folder: Path) -> None:
    find_sources(folder / "train.json")


def make_videos(folder: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    (folder / "in").mkdir()
    (folder / "in" / "a.mp4").write_bytes(lossless_mp4(video, 10.0))
    (folder / "in" / "a.csv").write_text("action\n" + "1\n" * 6)
    np.savez_compressed(folder / "in" / "c.npz", video=video, actions=np.ones(6, np.int64))


def read_videos(folder: Path) -> None:
    """What `nextframe import` reads, without its processes."""
    sources = find_sources(folder / "in")
    words = vocabulary(tables_of(sources))
    info = DatasetInfo(10.0, 16, words.names, {}, words.kind)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        for source in (source for source in sources if source.actions):  # the verb refuses the others
            job = {"video": source.video, "actions": source.actions, "meta": {}, "split": "train", "label": None}
            list(episodes_of(Path(out), info, source.name, job, Cut(least_frames=2), words))


def make_import(folder: Path) -> None:
    make_videos(folder)


def read_import(folder: Path) -> None:
    """The verb itself; a video without actions is what is left when those are damaged."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        import_footage(folder / "in", Path(out), 16, replace(USUAL_CUT, least_frames=2), workers=1)


def make_foreign_latents(folder: Path) -> None:
    tiny_run(folder.parent / "run-of-foreign-latents")
    for number in range(2):
        torch.save(torch.randn(5, 4, 4, 4), folder / f"{number}.pt")
    listed = [{"video_path": f"{number}.mp4", "latent_path": f"{number}.pt"} for number in range(2)]
    (folder / "list.json").write_text(json.dumps(listed))


def read_foreign_latents(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        import_latents(folder / "list.json", folder.parent / "run-of-foreign-latents" / "autoencoder", Path(out))


def make_weights(folder: Path) -> None:
    torch.save(torch.nn.Conv2d(3, 4, 3).state_dict(), folder / "vgg.pth")


def read_weights_file(folder: Path) -> None:
    _fill(torch.nn.Conv2d(3, 4, 3), folder / "vgg.pth", lambda name: name)


def read_i3d(folder: Path) -> None:
    os.environ["NEXTFRAME_WEIGHTS"] = str(folder)
    VideoFeatures.load(torch.device("cpu"))


def make_control(folder: Path) -> None:
    control.STEPS = 2
    footage = tiny_episodes(folder.parent / "footage-of-control", 8, 70, split="train")
    control.ActionReader.learned(footage, folder)


def read_control(folder: Path) -> None:
    control.ActionReader.learned(EpisodeDataset.open(folder.parent / "footage-of-control"), folder)


def make_prediction(folder: Path) -> None:
    scores = {"psnr": np.zeros((4, 3), np.float32)}
    measured = Measured(scores, FEATURES, 3, 1.0, 1.0, 2, "a machine", "f" * 64, {"psnr": "ours"})
    video = np.zeros((3, 16, 16, 3), np.uint8)
    write_prediction(folder / "a.npz", Prediction(video, video, measured))


def make_uploads(folder: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    (folder / "a.mp4").write_bytes(lossless_mp4(video, 10.0))
    Image.fromarray(video[0]).save(folder / "a.png")
    np.savez_compressed(folder / "a.npz", video=video)


def read_uploads(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        decoded_upload(path.read_bytes(), 16, folder)


def make_notes(folder: Path) -> None:
    (folder / "stages.json").write_text('{"record": {"seconds": 1.5, "finished": 1}}')
    (folder / "budget.json").write_text("600.0")


def read_notes(folder: Path) -> None:
    stages = StageTimes(folder / "stages.json")
    sum(stages.seconds.values())
    with stages("record"):
        pass
    same_budget(folder, 600.0)


READERS = {
    "episodes": Reader(make_episodes, read_episodes, 2),
    "latents": Reader(make_latents, read_latents, 2),
    "config": Reader(make_configs, read_configs, 2),
    "run": Reader(make_run, lambda folder: load(folder / "run"), 0.2),
    "checkpoint": Reader(make_checkpoints, read_checkpoints, 0.5),
    "training log": Reader(make_log, go_on_with_log),
    "watch": Reader(make_log, lambda folder: watch_page([folder], refreshed=True), 0.13),
    "published pth": Reader(lambda folder: make_published(folder, ".pth"), read_all_published, 0.4),
    "published safetensors": Reader(lambda folder: make_published(folder, ".safetensors"), read_all_published, 0.4),
    "actions": Reader(make_actions, read_all_actions, 2),
    "list of videos": Reader(make_list, read_list),
    "videos": Reader(make_videos, read_videos),
    "import": Reader(make_import, read_import, 0.13),
    "foreign latents": Reader(make_foreign_latents, read_foreign_latents, 0.13),
    "weights of LPIPS": Reader(make_weights, read_weights_file),
    "weights of I3D": Reader(tiny_i3d, read_i3d, 0.5),
    "weights of control": Reader(make_control, read_control, 0.2),
    "prediction": Reader(make_prediction, lambda folder: read_prediction(folder / "a.npz")),
    "upload": Reader(make_uploads, read_uploads, 0.1, names=False),
    "notes of the demo": Reader(make_notes, read_notes, 0.5),
}


def used() -> tuple[int, int]:
    """Bytes of address space, and the most that was ever really used."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def watch(folder: Path, foreign: list[str]) -> None:
    """Note what is opened outside the folder by a name in a file, and what is run."""
    inside, allowed = str(folder.parent), (sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]), "/proc", "/dev")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):
            path = os.path.realpath(arguments[0])
            if not path.startswith((inside, *allowed)) or path.endswith("outside.bin"):
                foreign.append(path)
        if event in ("os.system", "os.exec", "socket.connect"):
            foreign.append(f"{event} {arguments}")

    sys.addaudithook(hook)


def run(name: str, folder: Path, cases: int, seed: int, told: Path) -> None:
    """Read `cases` damaged files; says in `told` what went wrong, and first which case is under way."""
    reader, tempfile.tempdir = READERS[name], str(folder.parent)
    folder.mkdir()
    (folder.parent / "outside.bin").write_bytes(b"secret")
    reader.make(folder)
    reader.read(folder)  # whole
    good = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}
    foreign: list[str] = []
    watch(folder, foreign)
    size, before = used()
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE, size + ADDRESS_SPACE))
    # More often those that decide much, and are small.
    files = sorted(good, key=lambda path: len(good[path]))
    for case in range(cases):
        chance = random.Random(f"{name} {seed} {case}")
        path = files[min(int(chance.random() ** 1.5 * len(files)), len(files) - 1)]
        path.write_bytes(damaged(path, good[path], chance))
        where = {"reader": name, "case": case, "file": str(path.relative_to(folder))}
        told.open("a").write(json.dumps({**where, "wrong": "it crashed or hung"}) + "\n")
        signal.alarm(SECONDS)  # which nobody handles: the process ends
        wrong = ""
        try:
            with redirect_stderr(StringIO()):
                reader.read(folder)
        except UserError as error:
            text = str(error)
            if "\n" in text or len(text) > 1500:
                wrong = f"a message of {len(text)} characters: {text[:200]!r}"
            elif reader.names and str(folder) not in text:
                wrong = f"it names no file: {text}"
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)
            ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in place if "nextframe" in frame.filename]
            wrong = f"{type(error).__name__}: {str(error)[:200]} at {' '.join(ours[-3:])}"
        signal.alarm(0)
        if foreign:
            wrong = f"opened {foreign}"
            foreign.clear()
        if RAN.exists():
            wrong = "code in it was run"
            RAN.unlink()
        if used()[1] > before + MEMORY:
            wrong = f"{(used()[1] - before) >> 20} MiB of memory"
            before = used()[1]
        told.open("a").write(json.dumps({**where, "wrong": wrong}) + "\n")
        for other in good.keys() | {path}:
            if other == path or not other.is_file() or (reader.read is go_on_with_log):
                other.parent.mkdir(parents=True, exist_ok=True)
                other.write_bytes(good[other])


def fuzz(name: str, cases: int, seed: int, folder: Path) -> list[dict[str, Any]]:
    """What went wrong; when the process ends early, it is begun again with other cases."""
    wrong: list[dict[str, Any]] = []
    done = 0
    while done < cases:
        place = Path(tempfile.mkdtemp(dir=folder))
        told = place / "told"
        if (child := os.fork()) == 0:
            status = 1
            try:
                torch.set_num_threads(1)
                os.chdir(place)
                run(name, place / "files", cases - done, seed + done, told)
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        lines = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
        finished = [line for line in lines if line["wrong"] != "it crashed or hung"]
        wrong += [{**line, "seed": seed + done} for line in finished if line["wrong"]]
        if status and len(lines) <= 2 * len(finished):
            raise RuntimeError(f"{name}: the fuzzer itself ended with status {status}")
        if status:
            wrong.append({**lines[-1], "seed": seed + done, "status": status})
        done += len(finished) + bool(status)
    return wrong


def main() -> None:
    cases, seed, names = int(sys.argv[1]), int((sys.argv[2:3] or ["0"])[0]), sys.argv[3:] or list(READERS)
    total = sum(READERS[name].share for name in names)
    counted, failed = 0, 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for name in names:
            count = max(1, round(cases * READERS[name].share / total))
            started = time.monotonic()
            wrong = fuzz(name, count, seed, Path(folder))
            counted, failed = counted + count, failed + len(wrong)
            for line in wrong:
                print(json.dumps(line), flush=True)
            print(f"{name}: {count} cases, {time.monotonic() - started:.1f} s", file=sys.stderr)
    print(json.dumps({"cases": counted, "wrong": failed}))


if __name__ == "__main__":
    main()
