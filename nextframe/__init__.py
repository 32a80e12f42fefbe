"""nextframe: train and run FAR, the frame-autoregressive video model (arXiv 2503.19325)."""

__version__ = "0.1.0"
