"""Colours and patterns: 8-bit art that is drawn once, and a palette per episode that paints it.

The engine draws with palette indices and is read in palette indices. An index is `16 * material + shade`, so one set of
textures in the WAD serves every episode: an episode is given its own colours when indices become RGB.
"""

import colorsys
import random
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from nextframe.worlds.maze.settings import CELL, HEIGHT, Difficulty

SHADES = 16
WALL_SLOTS = 6  # wall looks per episode; slot k is painted with materials 2k + 1 and 2k + 2
FLOOR, CEILING = 2 * WALL_SLOTS + 1, 2 * WALL_SLOTS + 3  # first of their two materials; the ceiling has one
DIM = 2  # shades by which walls facing north or south are darker
DARKEST = 0.45  # brightness of the last shade, as a share of the first

Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]  # x, y in [0, 1) -> True where the second colour goes


def _checker(count: int) -> Pattern:
    return lambda x, y: ((x * count).astype(int) + (y * count).astype(int)) % 2 == 1


def _stripes(count: int) -> Pattern:
    return lambda x, y: (x * count).astype(int) % 2 == 1


def _bands(count: int) -> Pattern:
    return lambda x, y: (y * count).astype(int) % 2 == 1


def _identicon(seed: int) -> Pattern:
    half = np.random.default_rng(seed).random((6, 3)) < 0.5
    bits = np.concatenate([half, half[:, ::-1]], axis=1)
    return lambda x, y: bits[(y * 6).astype(int), (x * 6).astype(int)]


CALM_PATTERNS: list[Pattern] = [
    lambda x, y: np.zeros(x.shape, bool),  # plain
    _stripes(2),
    _bands(2),
    _checker(2),
    lambda x, y: y > 2 / 3,  # a skirting
    lambda x, y: abs(x - 0.5) + abs(y - 0.5) < 0.4,  # a diamond
    lambda x, y: abs(x - 0.5) < 1 / 6,  # a pillar
    lambda x, y: (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.33**2,  # a disc
]
PLAIN_PATTERNS: list[Pattern] = [
    _stripes(4),
    _bands(4),
    _checker(4),
    lambda x, y: y > x,  # a diagonal
    lambda x, y: np.maximum(abs(x - 0.5), abs(y - 0.5)) > 0.33,  # a frame
    lambda x, y: (abs(x - 0.5) < 0.12) | (abs(y - 0.5) < 0.12),  # a cross
    lambda x, y: abs(x - 0.5) < 0.5 * y,  # a gable
    lambda x, y: ((x + y) * 2).astype(int) % 2 == 1,  # wide diagonals
]
RICH_PATTERNS: list[Pattern] = [
    _stripes(8),
    _bands(8),
    _checker(6),
    lambda x, y: (y * 6 % 1 < 0.15) | ((x * 3 + 0.5 * ((y * 6).astype(int) % 2)) % 1 < 0.08),  # bricks
    lambda x, y: (x * 3 % 1 - 0.5) ** 2 + (y * 3 % 1 - 0.5) ** 2 < 0.1,  # dots
    lambda x, y: abs(x * 3 % 1 - 0.5) + abs(y * 3 % 1 - 0.5) < 0.4,  # diamonds
    *(_identicon(seed) for seed in range(8)),
]
PATTERNS = CALM_PATTERNS + PLAIN_PATTERNS + RICH_PATTERNS
PATTERN_COUNT = {
    "calm": len(CALM_PATTERNS),
    "plain": len(CALM_PATTERNS + PLAIN_PATTERNS),
    "rich": len(PATTERNS),
}
PLAIN_PATTERN, FLOOR_CHECKER = 0, 3


def wall_texture(slot: int, pattern: int, dim: bool) -> str:
    """The name in the WAD of `pattern` in the colours of wall `slot`.

    dim: a little darker; for walls that face north or south, so that a corner shows where one colour goes round it.
    """
    return f"W{slot}{pattern:02d}{'D' if dim else 'B'}"


def floor_texture(kind: int) -> str:
    """The name in the WAD of floor 0 (first colour), 1 (second colour) or 2 (a checker of both)."""
    return f"FLOOR{kind}"


CEILING_TEXTURE = "CEILING"


@dataclass(frozen=True)
class Look:
    """What one episode is painted with.

    colours: uint8 [256, 3], RGB of every palette index.
    patterns: the pattern of each wall slot in use; slot 0 is the common wall, the others are accents.
    """

    colours: np.ndarray
    patterns: tuple[int, ...]


def make_look(rng: random.Random, difficulty: Difficulty) -> Look:
    """Draw the colours and wall patterns of one episode."""
    slots = {"calm": rng.choice((3, 4)), "plain": 5, "rich": 6}[difficulty]
    strength = {"calm": 0.42, "plain": 0.6, "rich": 0.75}[difficulty]
    contrast = {"calm": 0.2, "plain": 0.28, "rich": 0.35}[difficulty]
    hues = _spread_hues(rng, slots + 2)
    materials = np.zeros((16, 3))
    patterns = []
    for slot in range(slots):
        saturation, value = strength * rng.uniform(0.8, 1.2), rng.uniform(0.6, 0.85)
        other = value - contrast if rng.random() < 0.5 else min(0.95, value + contrast)
        second_hue = hues[slot] if rng.random() < 0.6 else rng.choice(hues[:slots])
        materials[2 * slot + 1] = colorsys.hsv_to_rgb(hues[slot], saturation, value)
        materials[2 * slot + 2] = colorsys.hsv_to_rgb(second_hue, saturation, other)
        # The common wall of a calm maze has no pattern, so that the accents are what one remembers a place by.
        plain = difficulty == "calm" and slot == 0
        patterns.append(PLAIN_PATTERN if plain else rng.randrange(PATTERN_COUNT[difficulty]))
    floor, ceiling = rng.uniform(0.35, 0.55), rng.uniform(0.75, 0.95)
    materials[FLOOR] = colorsys.hsv_to_rgb(hues[slots], 0.8 * strength, floor)
    materials[FLOOR + 1] = colorsys.hsv_to_rgb(hues[slots], 0.8 * strength, floor * 0.7)
    materials[CEILING] = colorsys.hsv_to_rgb(hues[slots + 1], 0.4 * strength, ceiling)
    shade = np.linspace(1, DARKEST, SHADES)
    colours = materials[:, None, :] * shade[None, :, None]
    return Look((255 * colours).round().astype(np.uint8).reshape(256, 3), tuple(patterns))


def _spread_hues(rng: random.Random, count: int) -> list[float]:
    """Hues that differ: evenly round the circle from a random start, each moved a little, in random order."""
    start = rng.random()
    hues = [(start + (k + rng.uniform(-0.25, 0.25)) / count) % 1 for k in range(count)]
    rng.shuffle(hues)
    return hues


def art_lumps() -> list[tuple[str, bytes]]:
    """Palette, light tables and every texture, as (name, bytes) lumps for a WAD."""
    index = np.arange(256)
    material, shade = index // SHADES, index % SHADES
    tables = [SHADES * material + np.minimum(shade + row // 2, SHADES - 1) for row in range(32)]
    tables += [index, np.zeros(256, int)]  # inverse and black, never shown
    lumps = [("PLAYPAL", _engine_palette().tobytes() * 14), ("COLORMAP", np.array(tables, np.uint8).tobytes())]
    lumps.append(("TX_START", b""))
    for slot in range(WALL_SLOTS):
        for number, pattern in enumerate(PATTERNS):
            colours = SHADES * (2 * slot + 1), SHADES * (2 * slot + 2)
            for dim in (False, True):
                picture = _picture(pattern, colours[0] + DIM * dim, colours[1] + DIM * dim, HEIGHT)
                lumps.append((wall_texture(slot, number, dim), picture))
    floors = SHADES * FLOOR, SHADES * (FLOOR + 1)
    for kind, (pattern, first) in enumerate(((PLAIN_PATTERN, 0), (PLAIN_PATTERN, 1), (FLOOR_CHECKER, 0))):
        lumps.append((floor_texture(kind), _picture(PATTERNS[pattern], floors[first], floors[1], CELL)))
    ceiling = SHADES * CEILING
    lumps.append((CEILING_TEXTURE, _picture(PATTERNS[PLAIN_PATTERN], ceiling, ceiling, CELL)))
    return [*lumps, ("TX_END", b"")]


def _picture(pattern: Pattern, first: int, second: int, height: int) -> bytes:
    """A PNG with the sides of a cell: palette index `second` where the pattern is True, `first` elsewhere.

    The pattern fills the top `height` rows. Below it are its last row and then its first: at the edge of a wall the
    engine at times reads one row too far, either way, and past the end of a smaller picture it reads stray memory.
    """
    y, x = np.mgrid[0:height, 0:CELL] + 0.5
    indices = np.where(pattern(x / CELL, y / height), second, first).astype(np.uint8)
    below = (CELL - height) // 2
    indices = np.concatenate([indices, *[indices[-1:]] * below, *[indices[:1]] * (CELL - height - below)])
    image = Image.frombytes("P", (CELL, CELL), indices.tobytes())
    image.putpalette(_engine_palette().tobytes())
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _engine_palette() -> np.ndarray:
    """uint8 [256, 3]: any 256 different colours, because the engine finds a picture's indices by their colours."""
    index = np.arange(256)
    return np.stack([index, 255 - index, np.full(256, 128)], axis=1).astype(np.uint8)
