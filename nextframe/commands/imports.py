"""The command that makes episodes of anybody's footage."""

from pathlib import Path
from typing import Literal

import tyro

from nextframe.commands.footage import say_training
from nextframe.errors import UserError, counted
from nextframe.hub import local_run
from nextframe.options import say_next


def import_footage(
    place: tyro.conf.Positional[Path],
    out: Path,
    size: int = 64,
    fit: Literal["crop", "squeeze"] = "crop",
    frames: int = 300,
    least_frames: int = 16,
    every: int = 1,
    fps: float | None = None,
    actions: bool = True,
    offset: int = 0,
    action_names: tuple[str, ...] = (),
    autoencoder: Path | None = None,
    label_folders: tyro.conf.FlagCreatePairsOff[bool] = False,
    split: Literal["train", "validation", "test"] | None = None,
    test_share: float = 0.1,
    skip_bad: tyro.conf.FlagCreatePairsOff[bool] = False,
    workers: int = 0,
) -> None:
    """Make episodes of your own videos, with or without actions, or of a published data set. Goes on where it stopped.

    nextframe import FOLDER --out DATA

    PATH is a folder of videos, at any depth (mp4, avi, mkv, webm, mov, m4v, mpg, mpeg, gif; or npz with an array
    `video`, and maybe `actions`), or a published list: a .json file of objects with `video_path`, and maybe
    `action_path` and `label`.

    Actions lie beside a video under its name: walk.mp4, walk.csv (or walk.jsonl, walk.npz, walk.npy), one row per
    frame: an id, a name, or several numbers. Row t is what is done at frame t, and what leads to frame t + 1.

    Args:
        place: Folder of videos, or .json list.
        out: Folder of episodes to make, or to add to.
        size: Height and width of a frame in pixels.
        fit: How frames are made square. crop keeps the middle, as the paper does; squeeze keeps all, and changes the
            aspect.
        frames: Longest episode: a longer video becomes several. 0: videos are not cut.
        least_frames: Shortest episode. What is left over of a video and shorter is dropped.
        every: Keep every n-th frame, with its action.
        fps: Frames per second that are kept, if the videos say it wrong; their own if not given.
        actions: Use the actions beside the videos; then either each has them or none does.
        offset: Row t + OFFSET of the action files is done at frame t. In the end the import says what fits best.
        action_names: left right ...: names of the ids, or of a vector's numbers, in place of the files' own.
        autoencoder: Run of the autoencoder that made the latents a list names by `latent_path`, as the published code's
            lists do: OUT becomes a folder of latents to train on. With it --fps, --split, --test-share, --actions and
            --action-names count, and what is about pictures does not; --offset, --label-folders and --skip-bad do not
            go with it.
        label_folders: The folder a video lies in is its class, as in UCF-101.
        split: Of all these videos; if not given, as folders or the list are called (train, test ...), or --test-share.
        test_share: Share of the videos that is held out, picked by a hash of their names. A video keeps the side
            it was given when it was first imported to OUT.
        skip_bad: List videos that cannot be read, also in OUT/skipped.json, and go on; otherwise the first stops it.
        workers: Videos read at once; 0: one for each core.
    """
    if autoencoder is not None:
        if offset or label_folders or skip_bad:
            raise UserError("--offset, --label-folders and --skip-bad are for footage: leave them out")
        from nextframe.import_latents import import_latents

        index = import_latents(place, local_run(autoencoder), out, fps, split, test_share, actions, action_names)
        frames = sum(one.frames for one in index.episodes)
        print(f"{counted(len(index.episodes), 'episode')} of latents, {frames:,} frames")
        say_training(index, out)
        return
    from nextframe.data.cutting import Cut
    from nextframe.import_footage import import_footage as run
    from nextframe.imported import summary
    from nextframe.inspection import alignment

    imported = run(
        place,
        out,
        size,
        Cut(frames, least_frames, every, offset, fit),
        fps,
        split,
        test_share,
        labelled=label_folders,
        use_actions=actions,
        action_names=action_names,
        skip_bad=skip_bad,
        workers=workers,
    )
    print("\n".join(summary(imported)))
    if imported.dataset.info.action_kind != "none":
        print(alignment(imported.dataset))
    say_next("look at it", "inspect", out)
