"""Ways to break a file: cut, flipped, stretched, and written anew by somebody who means harm."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

BOMB = 6 * 2**30
"""Bytes that a small file promises to unpack to."""
DEEP = 10_000
Chance = random.Random


class Runs:
    """Whoever unpickles this runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/nextframe-was-run",)


HOSTILE: list[Any] = [
    None, True, False, -1, 0, 1, 2, 7, 2**31, 2**63, 2**70, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", ".", "..", "../outside.bin", "../../../../etc/passwd", "/etc/passwd", "link", "a/b", "a\0b", "\ud800", "\n",
    "x" * 5000, "id", "vector", "none", [], {}, [[]], [None], [1, 2, 3], ["a"], {"a": 1}, [0] * 1000,
]  # fmt: skip


def of_bytes(content: bytes, chance: Chance) -> bytes:
    """What a bad disk, a bad line or a bad person does to bytes."""
    size = len(content)
    place = chance.randrange(size + 1)
    way = chance.randrange(9)
    if way == 0:
        return content[:place]
    if way == 1:
        damaged = bytearray(content)
        for _ in range(min(size, chance.choice((1, 1, 1, 8, 64)))):
            damaged[chance.randrange(size)] ^= 1 << chance.randrange(8)
        return bytes(damaged)
    if way == 2:
        return content[:place] + chance.randbytes(chance.choice((1, 2, 8, 100))) + content[place:]
    if way == 3:
        return content[:place] + bytes([chance.choice((0, 255))]) * 64 + content[place + 64 :]
    if way == 4:  # a length that lies
        lie = chance.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**60, 2**63, 2**64 - 1))
        number = lie.to_bytes(8, "little")[: chance.choice((4, 8))]
        place = chance.choice((0, 0, 8, place, max(0, size - 22 + chance.randrange(22))))
        return content[:place] + number + content[place + len(number) :]
    if way == 5:
        return content[:place] + content[chance.randrange(size + 1) :]
    if way == 6:
        return content[place:] + content[:place]
    if way == 7:
        return chance.randbytes(chance.randrange(300))
    return chance.choice((b"", b"\0" * 100, b"#EXTM3U\n/etc/passwd\n", b"[" * DEEP, b'{"a":' * DEEP, b"\xff\xfe\x00"))


def replaced(value: Any, chance: Chance) -> Any:
    """A copy of plain data with one node of it lost, or something hostile in its place."""
    places: list[tuple[Any, ...]] = []

    def walk(node: Any, path: tuple[Any, ...]) -> None:
        places.append(path)
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in children:
            walk(child, (*path, key))

    copy = json.loads(json.dumps(value))
    walk(copy, ())
    path = chance.choice(places)
    if not path:
        return chance.choice(HOSTILE)
    node = copy
    for key in path[:-1]:
        node = node[key]
    way = chance.randrange(6)
    if way == 0:
        del node[path[-1]]
    elif way == 1 and isinstance(node, dict):
        node[chance.choice(("version", "zip", "", "__class__", "kind"))] = chance.choice(HOSTILE)
    else:
        node[path[-1]] = chance.choice(HOSTILE)
    return copy


def of_json(content: bytes, chance: Chance) -> bytes:
    value = json.loads(content)
    if chance.random() < 0.1:  # a key twice, and depths
        text = content.decode()
        place = text.find('"') if "{" in text else 0
        deep = chance.choice(('"frames": 1, "frames": "x", ', '"a": ' + "[" * DEEP, '"a": ' + "9" * 10_000 + ", "))
        return (text[:place] + deep + text[place:]).encode()
    return json.dumps(replaced(value, chance)).encode(errors="surrogatepass")


def of_lines(content: bytes, chance: Chance) -> bytes:
    """JSON on each line."""
    lines = content.splitlines()
    place = chance.randrange(len(lines))
    lines[place] = of_json(lines[place], chance).replace(b"\n", b" ")
    return b"\n".join(lines)


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
YAMLS = [
    ALIASES + "kind: *a29\n",
    ALIASES + "kind: world-model\nmodel: *a29\n",
    ALIASES + "kind: world-model\nclip: {frames: *a29}\n",
    "kind: world-model\nmodel: &m {layers: *m}\n",
    "kind: &k [*k]\n",
    "kind: !!python/object/apply:os.system ['touch /tmp/nextframe-was-run']\n",
    "kind: !!python/name:os.system\n",
    *(f"kind: {tag} {text}\n" for tag in ("!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!set", "!!pairs")
      for text in ("''", "x", "[1]", "{a: b}", "2001-99-99")),
    "kind: 2001-99-99\n",
    "? [a]\n: b\n",
    "<<: 3\nkind: autoencoder\n",
    "kind: " + "[" * DEEP,
    "kind: " + "9" * 10_000,
    "{" * DEEP,
]  # fmt: skip


def of_yaml(content: bytes, chance: Chance) -> bytes:
    if chance.random() < 0.3:
        return chance.choice(YAMLS).encode()
    return yaml.safe_dump(replaced(yaml.safe_load(content), chance)).encode(errors="surrogatepass")


def of_csv(content: bytes, chance: Chance) -> bytes:
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = chance.choice(rows)
    row[chance.randrange(len(row))] = str(chance.choice(HOSTILE))[:300].replace("\ud800", "?")
    if chance.random() < 0.2:
        row.append('"open')
    return "\n".join(map(",".join, rows)).encode()


def of_safetensors(content: bytes, chance: Chance) -> bytes:
    """A header that lies; at times about its own length."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(replaced(json.loads(content[8 : 8 + length]), chance)).encode(errors="surrogatepass")
    told = chance.choice((len(header),) * 12 + (2**60, 2**63, 2**64 - 1, 2**31, 10**8 + 1))
    return told.to_bytes(8, "little") + header + content[8 + length :]


def npy_header(shape: str, dtype: str = "'|u1'", version: int = 1) -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(text) + 1)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + b"\n"


HEADERS = [
    *(
        npy_header(shape)
        for shape in (f"({2**62},)", f"({2**63},)", "(-1,)", "(99999999999,)", "(0, -5)", "(1.5,)", "x")
    ),
    *(
        npy_header("(4,)", dtype)
        for dtype in ("'|O'", "'<f8'", "'<U99999999'", "[('a', '|O')]", "'<M8[D]'", "'V0'", "5")
    ),
    npy_header("(" * 5000),
    npy_header("(4,)", version=3),
    npy_header("(" + "1," * 100 + ")"),
    npy_header("(2, 16, 16, 3)"),
    npy_header("__import__('os').system('touch /tmp/nextframe-was-run')"),
]


def bomb(name: str) -> bytes:
    """A zip of some megabytes with an array of gigabytes of zeros."""
    head = npy_header(f"({BOMB},)")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = begin + block * (BOMB >> 20) + packer.flush()
    size = len(head) + BOMB
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.CRC, info.compress_size, info.file_size = 0, len(packed), size
        info.header_offset = 0
        file.write(info.FileHeader(zip64=True) + packed)
        archive.filelist.append(info)
        archive.NameToInfo[name] = info
        archive.start_dir = file.tell()
        archive._didModify = True  # pyright: ignore[reportAttributeAccessIssue]
    return file.getvalue()


def of_npz(content: bytes, chance: Chance) -> bytes:
    """Members lost, pickled, renamed, with other headers; and now and then a bomb."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = chance.choice(sorted(members))
    way = chance.randrange(40)
    if way == 0:
        return bomb(name)
    if way < 4:
        del members[name]
    elif way < 8:
        members[chance.choice(("../outside.npy", "/etc/passwd", "video", "actions.npy", "a\n.npy"))] = members.pop(name)
    elif way < 12:
        members[name] = pickle.dumps(Runs())
    elif way < 24:
        members[name] = chance.choice(HEADERS) + chance.randbytes(chance.choice((0, 4, 32, 1536)))
    elif way < 32:
        saved, dtype = io.BytesIO(), chance.choice(("<f8", "<i8", "|b1", "<U4", "<c8", "<f2", "|S3", ">i4", "<M8[s]"))
        shape = chance.choice(((), (0,), (1,), (20,), (20, 2), (20, 0), (20, 16, 16, 3), (2, 2, 2)))
        np.save(saved, np.full(shape, chance.choice((0, 1, 999))).astype(dtype))
        members[name] = saved.getvalue()
    else:
        members[name] = of_bytes(members[name], chance)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for key, member in members.items():
            archive.writestr(key, member)
    return file.getvalue()


def of_torch(content: bytes, chance: Chance) -> bytes:
    """What torch.save wrote, with another pickle in it."""
    import torch

    way = chance.randrange(4)
    if way == 0:
        saved = io.BytesIO()
        large = torch.zeros(1).expand(2**40)
        torch.save(
            chance.choice((large, {"a": large}, {"a": {"b": 1}}, [1], "x", {1: 2}, {"x": torch.zeros(0)})), saved
        )
        return saved.getvalue()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl")) if way < 3 else chance.choice(sorted(members))
    members[name] = pickle.dumps(Runs(), protocol=2) if chance.random() < 0.2 else of_bytes(members[name], chance)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for key, member in members.items():
            archive.writestr(key, member)
    return file.getvalue()


BY_SUFFIX: dict[str, Callable[[bytes, Chance], bytes]] = {
    ".json": of_json,
    ".jsonl": of_lines,
    ".yaml": of_yaml,
    ".csv": of_csv,
    ".npz": of_npz,
    ".safetensors": of_safetensors,
    ".pth": of_torch,
    ".pt": of_torch,
}


def damaged(path: Path, content: bytes, chance: Chance) -> bytes:
    """The content of a file, broken in one way or another."""
    own = BY_SUFFIX.get(path.suffix)
    return own(content, chance) if own is not None and chance.random() < 0.5 else of_bytes(content, chance)
