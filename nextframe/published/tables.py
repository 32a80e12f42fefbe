"""Results that the authors print beside the models they released, to stand beside our own.

As they are in the published model zoo and in the paper; a figure that neither has is None.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """One line of a table; the metrics as they print them."""

    model: str
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    fvd: float | None = None
    fvd_deviation: float | None = None
    """Between seeds."""
    said_of: str = ""
    """What the line is about, beside the model."""


DMLAB = Row("FAR-B-Long", 22.3, 0.687, 0.104, 64, said_of="DMLab, 64 pixels")
MINECRAFT = Row("FAR-M-Long", 16.9, 0.448, 0.251, 39, said_of="Minecraft, 128 pixels")
GENERATION = (
    Row("FAR-L", fvd=280, fvd_deviation=11.7, said_of="128 pixels, without labels"),
    Row("FAR-L", fvd=99, fvd_deviation=5.9, said_of="128 pixels, labels"),
    Row("FAR-L", fvd=303, fvd_deviation=13.5, said_of="256 pixels, without labels"),
    Row("FAR-L", fvd=113, fvd_deviation=3.6, said_of="256 pixels, labels"),
    Row("FAR-XL", fvd=279, fvd_deviation=9.2, said_of="256 pixels, without labels"),
    Row("FAR-XL", fvd=108, fvd_deviation=4.2, said_of="256 pixels, labels"),
)

PUBLISHED: dict[str, tuple[Row, ...]] = {
    "ucf101-prediction": (Row("FAR-B", 25.64, 0.818, 0.037, 194.1, said_of="UCF-101, 64 pixels"),),
    "ucf101-prediction-1": (
        Row("FAR-B, stochastic clean context", 18.46, 0.596, 0.187, 347, said_of="UCF-101, 64 pixels, ablation"),
        Row("FAR-B, without", 16.42, 0.540, 0.211, 399, said_of="UCF-101, 64 pixels, ablation"),
    ),
    "bair-28": (Row("FAR-B", 19.40, 0.819, 0.049, 144.3, said_of="BAIR, 64 pixels"),),
    # PSNR, SSIM and LPIPS are of 144 -> 156 frames, the FVD of 36 -> 264.
    "dmlab": (DMLAB._replace(fvd=None),),
    "dmlab-fvd": (Row("FAR-B-Long", fvd=DMLAB.fvd, said_of=DMLAB.said_of),),
    "minecraft": (MINECRAFT._replace(fvd=None),),
    "minecraft-fvd": (Row("FAR-M-Long", fvd=MINECRAFT.fvd, said_of=MINECRAFT.said_of),),
    "ucf101-generation": GENERATION,
}
"""By the name of our protocol."""
