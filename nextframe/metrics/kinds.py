"""What one has to know of a metric to print it, to draw it and to compare by it. How it is computed: `scoring`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    title: str
    digits: int
    """After the point, where it is printed."""
    axis: str = ""
    """Of its curve over the predicted frames, where it has one."""
    unit: str = ""
    by_frame: bool = False
    """It scores every predicted frame."""
    paired: bool = False
    """It scores every episode by itself, so that two evaluations can be compared episode by episode."""
    lower: bool = False
    """Less is better."""

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.lower else 1

    def amount(self, value: float) -> str:
        """For the eye: `21.3 dB`, `0.912`."""
        return f"{value:.{self.digits - 1}f} {self.unit}" if self.unit else f"{value:.{self.digits}f}"

    def text(self, value: float) -> str:
        """`21.3 dB`, `SSIM 0.912`"""
        return self.amount(value) if self.unit else f"{self.title} {self.amount(value)}"


METRICS = {
    "psnr": Kind("PSNR", 2, "PSNR in dB (higher is better)", unit="dB", by_frame=True, paired=True),
    "ssim": Kind("SSIM", 3, "SSIM (1 is identical)", by_frame=True, paired=True),
    "lpips": Kind("LPIPS", 3, "LPIPS (lower is better)", by_frame=True, paired=True, lower=True),
    "fvd": Kind("FVD", 1, lower=True),
    "drift": Kind("drift", 2, "drift (lower is better)", lower=True),
    "revisit": Kind("revisit", 2),
    "control": Kind("control", 3, "share that obeys its action", paired=True),
}
"""By the names of `protocol.Metric`, in the order in which they are shown."""
FRAME_METRICS = tuple(name for name, kind in METRICS.items() if kind.by_frame)
