"""How fast `nextframe play` is, from key to pixel: python tests/play_speed.py MODEL DATA [VISITORS ...]

One visitor presses a key when the last frame has come, and waits: that is key to pixel, and how its time is spent.
Then so many visitors at once hold one down: frames a second, of each and in all.
"""

import asyncio
import json
import os
import re
import struct
import subprocess
import sys
import time
from statistics import median, quantiles
from typing import Any
from urllib.request import urlopen

from websockets.asyncio.client import ClientConnection, connect

PRESSES = 60
SECONDS = 12.0
START: dict[str, Any] = {"type": "start", "context": 144}


def header_of(said: str | bytes) -> dict[str, Any] | None:
    if isinstance(said, str):
        return None
    (length,) = struct.unpack(">I", said[:4])
    return json.loads(said[4 : 4 + length])


async def next_dream(socket: ClientConnection) -> dict[str, Any]:
    while True:
        header = header_of(await socket.recv())
        if header is not None and header["kind"] == "dream":
            return header


async def begin(address: str, real: bool) -> ClientConnection:
    socket = await connect(address, max_size=None, compression=None, ping_timeout=None)
    await socket.send(json.dumps({**START, "real": real}))
    await next_dream(socket)
    return socket


def described(values: list[float]) -> str:
    return f"median {median(values):6.1f}, p95 {quantiles(values, n=20)[-1]:6.1f}"


async def key_to_pixel(address: str, real: bool) -> None:
    socket = await begin(address, real)
    waits: dict[str, list[float]] = {"key to pixel": [], "transformer": [], "decoder": [], "queue": [], "transport": []}
    for number in range(PRESSES + 5):
        at = float(number + 1)
        pressed = time.perf_counter()
        await socket.send(json.dumps({"type": "act", "action": (1, 1, 2, 1, 3)[number % 5], "at": at}))
        while (header := await next_dream(socket))["at"] != at:
            pass
        took = 1000 * (time.perf_counter() - pressed)
        if number < 5:  # the context is read, the engine starts
            continue
        parts = [header["transformer_ms"], header["decode_ms"], header["wait_ms"]]
        for name, value in zip(waits, [took, *parts, took - sum(parts)], strict=True):
            waits[name].append(value)
    print(f"one visitor{', the engine beside' if real else ''}, {PRESSES} presses, ms:")
    print("\n".join(f"  {name:<13} {described(values)}" for name, values in waits.items()))
    await socket.close()


async def hold(socket: ClientConnection, frames: list[float]) -> None:
    """Note when a frame has come."""
    while True:
        await next_dream(socket)
        frames.append(time.monotonic())


async def crowd(address: str, visitors: int) -> None:
    sockets = [await begin(address, False) for _ in range(visitors)]
    for socket in sockets:
        await socket.send(json.dumps({"type": "hold", "action": 2, "on": True}))
    for socket in sockets:  # all have read their context
        await next_dream(socket)
    came: list[list[float]] = [[] for _ in sockets]
    holders = [asyncio.create_task(hold(socket, frames)) for socket, frames in zip(sockets, came, strict=True)]
    await asyncio.sleep(SECONDS)
    for holder, socket in zip(holders, sockets, strict=True):
        holder.cancel()
        await socket.close()
    rates = [len(frames) / SECONDS for frames in came]
    print(f"{visitors} hold a key: {sum(rates):.1f} frames a second in all, {min(rates):.2f} to {max(rates):.2f} each")


def main(model: str, data: str, visitors: list[int]) -> None:
    command = [sys.executable, "-m", "nextframe", "play", "--model", model, "--data", data]
    command += ["--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = re.search(r":(\d+)/", server.stdout.readline())
            assert found
            address = f"ws://127.0.0.1:{found[1]}/play"
            with urlopen(f"http://127.0.0.1:{found[1]}/api/world") as world:
                START["episode"] = json.load(world)["starts"][0]["name"]
            print(f"load average at first {os.getloadavg()[0]:.1f}")
            for real in (False, True):
                asyncio.run(key_to_pixel(address, real))
            for count in visitors:
                asyncio.run(crowd(address, count))
            print(f"load average at last {os.getloadavg()[0]:.1f}")
        finally:
            server.terminate()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [int(word) for word in sys.argv[3:]] or [1, 4, 16])
