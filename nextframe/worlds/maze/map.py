"""A maze per seed: its grid, its look, its start, and the same as a UDMF map in a WAD that ViZDoom can load."""

import random
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nextframe.worlds.maze import look
from nextframe.worlds.maze.settings import CELL, HEADINGS, HEIGHT, MazeSettings

NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (row, column) steps: east, north, west, south
LIGHT = 208  # of 255; leaves room for the engine to darken far walls, and two of the four directions, a little

Cell = tuple[int, int]  # row (grows with y, to the north) and column (grows with x, to the east)
Pose = tuple[int, int, int]  # x and y in map units, heading in turns of 360 / HEADINGS degrees anticlockwise from east
ANGLES = np.array([1, 1, 360 / HEADINGS], np.float32)


def logged_poses(poses: Sequence[Pose]) -> np.ndarray:
    """As episodes keep them: float32 [f, 3], the angle in degrees."""
    return np.array(poses, np.float32) * ANGLES


def poses_of(logged: np.ndarray) -> list[Pose]:
    """What `logged_poses` was given."""
    return [(x, y, heading % HEADINGS) for x, y, heading in np.rint(logged / ANGLES).astype(int).tolist()]


@dataclass(frozen=True)
class Maze:
    """grid: bool [2 cells + 1, 2 cells + 1], True where one can walk. text: the map in UDMF."""

    grid: np.ndarray
    look: look.Look
    start: Pose
    text: str


def make_maze(seed: int, settings: MazeSettings) -> Maze:
    """The maze of a seed; the same on every machine."""
    rng = random.Random(f"maze {seed}")
    grid = _make_grid(rng, settings.cells, settings.loops)
    chosen = look.make_look(rng, settings.difficulty)
    row, column = rng.choice(free_cells(grid))
    open_ways = [way for way, (down, right) in enumerate(NEIGHBOURS) if grid[row + down, column + right]]
    start = (*cell_centre((row, column)), rng.choice(open_ways) * HEADINGS // 4)
    rich = settings.difficulty == "rich"
    regions = _make_regions(rng, grid, 3 if rich else 1)
    text = _udmf(rng, grid, regions, chosen.patterns, start, look.PATTERN_COUNT["rich"] if rich else 0)
    return Maze(grid, chosen, start, text)


def free_cells(grid: np.ndarray) -> list[Cell]:
    """Every cell one can walk on."""
    return [(int(row), int(column)) for row, column in np.argwhere(grid)]


def cell_centre(cell: Cell) -> tuple[int, int]:
    """x and y of the middle of a cell, in map units."""
    return cell[1] * CELL + CELL // 2, cell[0] * CELL + CELL // 2


def _make_grid(rng: random.Random, cells: int, loops: float) -> np.ndarray:
    """A spanning tree over cells x cells junctions, some walls opened into loops, and sometimes one 3x3 room."""
    grid = np.zeros((2 * cells + 1, 2 * cells + 1), bool)
    grid[1, 1] = True
    trail = [(0, 0)]
    while trail:
        row, column = trail[-1]
        options = [(row + down, column + right) for down, right in NEIGHBOURS]
        options = [(r, c) for r, c in options if 0 <= r < cells and 0 <= c < cells and not grid[2 * r + 1, 2 * c + 1]]
        if not options:
            trail.pop()
            continue
        next_row, next_column = rng.choice(options)
        trail.append((next_row, next_column))
        grid[2 * next_row + 1, 2 * next_column + 1] = True
        grid[row + next_row + 1, column + next_column + 1] = True
    for row in range(1, 2 * cells):
        for column in range(1, 2 * cells):
            if (row + column) % 2 == 1 and rng.random() < loops:
                grid[row, column] = True
    if rng.random() < 0.35:
        row, column = 2 * rng.randrange(cells - 1) + 1, 2 * rng.randrange(cells - 1) + 1
        grid[row : row + 3, column : column + 3] = True
    return grid


def _make_regions(rng: random.Random, grid: np.ndarray, count: int) -> np.ndarray:
    """int grid: the region of every free cell, grown from `count` random cells; -1 on walls."""
    regions = np.full(grid.shape, -1)
    queue: deque[Cell] = deque()
    for region, cell in enumerate(rng.sample(free_cells(grid), count)):
        regions[cell] = region
        queue.append(cell)
    while queue:
        row, column = queue.popleft()
        for down, right in NEIGHBOURS:
            near = (row + down, column + right)
            if grid[near] and regions[near] < 0:
                regions[near] = regions[row, column]
                queue.append(near)
    return regions


def _udmf(
    rng: random.Random, grid: np.ndarray, regions: np.ndarray, patterns: tuple[int, ...], start: Pose, any_pattern: int
) -> str:
    """The map's text. A region is a sector with a floor of its own; every free cell has a wall towards every solid one.

    Accent walls are what makes one place different from another. With `any_pattern` > 0 every wall draws one of that
    many patterns, otherwise a wall slot has one pattern.
    """
    vertices: dict[tuple[int, int], int] = {}
    lines, sides = [], []

    def vertex(column: int, row: int) -> int:
        return vertices.setdefault((column * CELL, row * CELL), len(vertices))

    def side(region: int, texture: str = "") -> int:
        middle = f'texturemiddle="{texture}";' if texture else ""
        sides.append(f"sidedef{{sector={region};{middle}}}")
        return len(sides) - 1

    def wall(region: int, dim: bool) -> str:
        slot = rng.randrange(1, len(patterns)) if rng.random() < 0.45 else region % len(patterns)
        return look.wall_texture(slot, rng.randrange(any_pattern) if any_pattern else patterns[slot], dim)

    for row, column in free_cells(grid):
        # The corners of each edge are ordered so that this cell lies on the right of the line, its front.
        north, south, east, west = row + 1, row, column + 1, column
        edges = (((0, 1), east, north, east, south), ((1, 0), west, north, east, north))
        edges += (((0, -1), west, south, west, north), ((-1, 0), east, south, west, south))
        for (down, right), x1, y1, x2, y2 in edges:
            near = (row + down, column + right)
            region = int(regions[row, column])
            if not grid[near]:
                front = side(region, wall(region, dim=down != 0))
                ends = f"v1={vertex(x1, y1)};v2={vertex(x2, y2)};sidefront={front};"
                lines.append(f"linedef{{{ends}blocking=true;}}")
            elif regions[near] != region and (down, right) in NEIGHBOURS[:2]:
                ends = f"v1={vertex(x1, y1)};v2={vertex(x2, y2)};sidefront={side(region)};"
                lines.append(f"linedef{{{ends}sideback={side(int(regions[near]))};twosided=true;}}")
    skills = "".join(f"skill{level}=true;" for level in range(1, 6))
    thing = f"thing{{x={start[0]};y={start[1]};angle={start[2] * 360 // HEADINGS};type=1;{skills}single=true;}}"
    sectors = [
        f'sector{{heightfloor=0;heightceiling={HEIGHT};texturefloor="{look.floor_texture(region)}";'
        f'textureceiling="{look.CEILING_TEXTURE}";lightlevel={LIGHT};}}'
        for region in range(int(regions.max()) + 1)
    ]
    points = [f"vertex{{x={x};y={y};}}" for x, y in vertices]
    return "\n".join(['namespace = "zdoom";', thing, *points, *lines, *sides, *sectors, ""])


def map_name(number: int) -> str:
    """The name of map `number` in a WAD written by `wad_bytes`."""
    return f"M{number:05d}"


def wad_bytes(mazes: list[Maze]) -> bytes:
    """A PWAD with all art and one map per maze. (The engine indexes a WAD once, when it starts.)"""
    lumps = look.art_lumps()
    for number, maze in enumerate(mazes):
        lumps += [(map_name(number), b""), ("TEXTMAP", maze.text.encode()), ("ENDMAP", b"")]
    header_size, body, directory = 12, bytearray(), bytearray()
    for name, content in lumps:
        directory += struct.pack("<ii8s", header_size + len(body), len(content), name.encode())
        body += content
    return struct.pack("<4sii", b"PWAD", len(lumps), header_size + len(body)) + bytes(body) + bytes(directory)
