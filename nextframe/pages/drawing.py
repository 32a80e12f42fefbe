"""Pictures for people: frames enlarged and labelled, film strips, and the videos and images of the pages.

Videos are uint8 [f, h, w, 3]. Nothing here is ever scored.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nextframe.data.video import mp4

PANEL = 256
"""Height and width in pixels that frames are enlarged to in a clip."""
STRIP = 2
"""Times as large frames are shown in a row."""
EDGE, HEADER = 6, 40
"""Pixels round a panel, and above it. All writing is above: players draw their buttons over the lower edge."""
FOR_TITLE = 96
"""Pixels of the line over a panel that are left to its title and an arrow."""
BACKGROUND, INK, FAINT = (17, 20, 24), (236, 238, 240), (139, 146, 155)
CONTEXT_COLOUR, PREDICTION_COLOUR, TRUTH_COLOUR = (224, 164, 52), (45, 190, 170), (120, 128, 138)
ARROWS = {
    "left": (-1, 0),
    "right": (1, 0),
    "forward": (0, -1),
    "up": (0, -1),
    "backward": (0, 1),
    "back": (0, 1),
    "down": (0, 1),
}
"""Words in the names of actions, and where their arrow points (rightwards, downwards)."""


def enlarge(video: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel a square of `factor` x `factor`: [..., h, w, 3] -> [..., factor h, factor w, 3]."""
    return video.repeat(factor, axis=-3).repeat(factor, axis=-2)


def panel_factor(size: int) -> int:
    return max(1, PANEL // size)


def comparison_clip(video: np.ndarray, prediction: np.ndarray, actions: Sequence[str]) -> np.ndarray:
    """Truth and prediction side by side, uint8 [f, height, width, 3], labelled.

    `video`: the context and the true future. `prediction`: as many frames as that future; over the context both sides
    show what the model was given, in another colour. `actions`: the name of the one taken at each frame of `video`;
    the clip shows the one that led to a frame.
    """
    context = len(video) - len(prediction)
    shown = np.concatenate([video[:context], prediction])
    pages = []
    for index in range(len(video)):
        step = index - context + 1
        given = step <= 0
        colour = CONTEXT_COLOUR if given else PREDICTION_COLOUR
        canvas = _Canvas(video.shape[2], panels=2)
        canvas.panel(0, video[index], TRUTH_COLOUR, "truth")
        canvas.action(actions[index - 1] if index else "")
        canvas.panel(1, shown[index], colour, "context (given)" if given else "prediction")
        canvas.right(1, f"{step - 1}" if given else f"+{step} of {len(prediction)}", colour)
        pages.append(canvas.image())
    return np.stack(pages)


def action_clip(video: np.ndarray, actions: Sequence[str]) -> np.ndarray:
    """A recording, uint8 [f, height, width, 3], with the action taken at each frame and the frame's number."""
    pages = []
    for index, frame in enumerate(video):
        canvas = _Canvas(video.shape[2], panels=1)
        canvas.panel(0, frame, TRUTH_COLOUR, f"{index}")
        canvas.action(actions[index])
        pages.append(canvas.image())
    return np.stack(pages)


def film_strip(rows: dict[str, np.ndarray], labels: Sequence[str]) -> np.ndarray:
    """Named rows of frames, each uint8 [n, h, w, 3], under n labels: one picture, uint8 [height, width, 3]."""
    first = next(iter(rows.values()))
    height, width = first.shape[1] * STRIP, first.shape[2] * STRIP
    name_width, label_height, gap = max(108, 20 + round(max(map(_font(16).getlength, rows)))), 26, 4
    size = (name_width + len(labels) * (width + gap), label_height + len(rows) * (height + gap))
    image, draw = _blank(size)
    for column, label in enumerate(labels):
        middle = name_width + column * (width + gap) + width / 2
        draw.text((middle, label_height / 2), label, fill=FAINT, font=_font(16), anchor="mm")
    for row, (name, frames) in enumerate(rows.items()):
        top = label_height + row * (height + gap)
        draw.text((name_width - 10, top + height / 2), name, fill=INK, font=_font(16), anchor="rm")
        for column, frame in enumerate(enlarge(frames, STRIP)):
            image.paste(Image.fromarray(frame), (name_width + column * (width + gap), top))
    return np.asarray(image)


def action_strip(video: np.ndarray, actions: Sequence[str], first: int, factor: int = 2) -> np.ndarray:
    """Frames in a row, each over its number and the action taken at it, which leads to the next."""
    height, width, gap, label_height = video.shape[1] * factor, video.shape[2] * factor, 4, 48
    image, draw = _blank((len(video) * (width + gap), height + label_height))
    for column, (frame, action) in enumerate(zip(enlarge(video, factor), actions, strict=True)):
        left = column * (width + gap)
        image.paste(Image.fromarray(frame), (left, 0))
        draw.text((left + 4, height + 13), f"{first + column}", fill=FAINT, font=_font(14), anchor="lm")
        # Half-way to the next frame: that is where an action belongs.
        draw_arrow(draw, (left + width - 16, height + 13), action, 16)
        draw.text((left + width, height + 36), words(action), fill=INK, font=_font(14), anchor="rm")
    return np.asarray(image)


def label_name(names: Sequence[str], label: int) -> str:
    """The name of a class; a model may know more classes than the footage at hand has names for."""
    return names[label] if label < len(names) else f"class {label}"


def words(action: str) -> str:
    """`turn_left` as a person writes it."""
    return action.replace("_", " ")


def draw_arrow(draw: Any, centre: tuple[float, float], action: str, size: float) -> None:
    """An arrow for an action whose name has a direction in it, a ring for one that does nothing; else nothing."""
    x, y, half = *centre, size / 2
    parts = action.lower().replace("-", "_").split("_")
    directions = [ARROWS[part] for part in parts if part in ARROWS]
    if directions:
        right, down = directions[-1]
        along = np.array([(half, 0), (0, half), (0, half / 2.6), (-half, half / 2.6)])
        outline = np.concatenate([along, along[::-1] * (1, -1)])
        turned = outline @ np.array([(right, down), (-down, right)]) + (x, y)
        draw.polygon([(float(a), float(b)) for a, b in turned], fill=INK)
    elif parts[0] in ("noop", "none", "idle", "stay", "wait"):
        draw.ellipse((x - half / 2, y - half / 2, x + half / 2, y + half / 2), outline=INK, width=2)


class _Canvas:
    """One page of a clip: panels in a row, a line of writing over each."""

    def __init__(self, size: int, panels: int) -> None:
        self._factor = panel_factor(size)
        self._side = size * self._factor + 2 * EDGE
        self._image, self._draw = _blank((panels * (self._side + EDGE) - EDGE, HEADER + self._side))

    def panel(self, place: int, frame: np.ndarray, colour: tuple[int, int, int], title: str) -> None:
        left = self._left(place)
        self._draw.rectangle((left, HEADER, left + self._side - 1, HEADER + self._side - 1), fill=colour)
        self._image.paste(Image.fromarray(enlarge(frame, self._factor)), (left + EDGE, HEADER + EDGE))
        self._draw.text((left + 4, HEADER / 2), title, fill=colour, font=_font(20), anchor="lm")

    def right(self, place: int, text: str, colour: tuple[int, int, int]) -> float:
        """Write at the right end of the line over a panel; returns where the text begins."""
        end = (self._left(place) + self._side - 4, HEADER / 2)
        self._draw.text(end, text, fill=colour, font=_font(20), anchor="rm")
        return end[0] - self._draw.textlength(text, font=_font(20))

    def action(self, name: str) -> None:
        """Over the first panel, the name of an action, or the numbers of a vector, shortened to what there is room
        for."""
        text, room = words(name), self._side - FOR_TITLE
        while self._draw.textlength(text, font=_font(20)) > room:
            text = f"{text[:-2]}…"
        begin = self.right(0, text, INK)
        draw_arrow(self._draw, (begin - 18, HEADER / 2), name, 24)

    def image(self) -> np.ndarray:
        return np.asarray(self._image)

    def _left(self, place: int) -> int:
        return place * (self._side + EDGE)


def mp4_bytes(video: np.ndarray, fps: float) -> bytes:
    """H.264, yuv420p: what every browser plays. Not lossless; height and width are made even by cropping."""
    even = video[:, : video.shape[1] // 2 * 2, : video.shape[2] // 2 * 2]
    return mp4(even, fps, "libx264", "yuv420p", {"crf": "20", "preset": "medium", "threads": "1"})


def png_bytes(image: np.ndarray) -> bytes:
    """`image`: uint8 [h, w, 3]."""
    file = BytesIO()
    Image.fromarray(image).save(file, "png", optimize=True)
    return file.getvalue()


def _blank(size: tuple[int, int]) -> tuple[Any, Any]:
    image = Image.new("RGB", size, BACKGROUND)
    return image, ImageDraw.Draw(image)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
