"""The speed that was aimed at on an H200, beside the published code's there: python tests/speed_table.py [ROW ...]

Every row (0, 1 ...; all, if none is named) is measured as it is and in other ways: training not compiled, by
FlexAttention, and by that in 8-bit floats, sampling without CUDA graphs. A table in Markdown, line after line as they
are done; times in milliseconds. What is published and aimed at came with the aims: no GPU was at hand here.
"""

import json
import subprocess
import sys
from dataclasses import dataclass

TRAIN, SAMPLE = ["", "--compile off", "--flex-attention", "--flex-attention --float8 on"], ["", "--graphs off"]


@dataclass(frozen=True)
class Row:
    bench: str
    published: float
    """Milliseconds of a step (forward, backward, optimizer) or of a frame, by the published code in bfloat16."""
    published_memory: float | None
    """GiB."""
    aim: float
    """Milliseconds."""
    ways: list[str]


ROWS = [
    Row("train --preset far-b --batch 32 --frames 16", 197, 30, 45, TRAIN),
    Row("train --preset far-l --batch 32 --frames 16", 532, 79, 125, TRAIN),
    Row("train --preset far-b-long --batch 32 --frames 299", 548, 61, 120, TRAIN),
    Row("train --preset far-b-long --batch 4 --frames 299", 115, 10, 20, TRAIN),
    Row("train --preset far-b --batch 1 --frames 300", 632, 28, 100, TRAIN),
    Row("sample --preset far-b-long --batch 4 --context 20 --frames 236 --steps 25", 570, 3.7, 16, SAMPLE),
    Row("sample --preset far-b-long --batch 1 --context 20 --frames 236 --steps 25", 546, None, 12, SAMPLE),
]


def main() -> None:
    chosen = [ROWS[int(number)] for number in sys.argv[1:]] or ROWS
    print(
        "| nextframe bench | ms | p95 | aimed at | published | GiB | published | share of the machine | compiling, s |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for row in chosen:
        for way in row.ways:
            print(line(row, way), flush=True)


def line(row: Row, way: str) -> str:
    words = f"{row.bench} {way}".split()
    command = [sys.executable, "-m", "nextframe", "bench", *words, "--dtype", "bfloat16", "--device", "cuda", "--json"]
    command += ["--repeats", "1"] if words[0] == "sample" else ["--seconds", "5"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    name = " ".join(words)
    if ran.returncode:
        return f"| {name} | {(ran.stderr.strip().splitlines() or ['no word'])[-1]} |"
    found = json.loads(ran.stdout)
    key = "seconds_per_whole_step" if words[0] == "train" else "seconds_per_frame"
    cells = [
        f"{1000 * found[key]:.1f}",
        f"{1000 * found[key + '_p95']:.1f}",
        f"{row.aim}",
        f"{row.published}",
        f"{found['peak_cuda_allocated_gib']:.1f}",
        f"{row.published_memory or ''}",
        f"{100 * found['matrix_share']:.0f} %",
        f"{found.get('compile_seconds') or 0:.0f}",
    ]
    return " | ".join([f"| {name}", *cells]) + " |"


if __name__ == "__main__":
    main()
