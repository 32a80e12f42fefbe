"""nextframe: train and run FAR, the frame-autoregressive video model (arXiv 2503.19325).

import nextframe

model = nextframe.load("runs/mine")
walk = model.walk(video, actions)   # uint8 [f, height, width, 3] and the actions between the frames
frame = walk.step(action)           # uint8 [height, width, 3]
"""

from typing import TYPE_CHECKING

from nextframe import version

if TYPE_CHECKING:
    from pathlib import Path

    from nextframe.runs import WorldModel

__version__ = version.VERSION

__all__ = ["__version__", "load"]


def load(run: "Path | str", device: str = "auto") -> "WorldModel":
    """The world model of a run, ready to sample. Raises errors.UserError when there is none.

    `run`: a folder; or a name on the Hugging Face hub, which is downloaded: `owner/name`, where that is a run, or a
    published checkpoint, `guyuchao/FAR_Models/long_video_prediction/FAR_B_Long_DMLab_Action64-c09441dc.pth`.
    """
    from nextframe import runs  # imports torch
    from nextframe.devices import resolve_device

    return runs.load(run, resolve_device(device))
