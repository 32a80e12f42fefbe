"""The authors' FAR-Long beside ours, in turns: for `nextframe bench`, not for pytest.

    FAR=CHECKOUT nextframe bench train --preset far-b-long --frames 16 --windows 1 --against tests/published_far.py
    FAR=CHECKOUT nextframe bench sample --preset far-b-long --context 20 --steps 25 --against tests/published_far.py

CHECKOUT: a clone of https://github.com/showlab/FAR, whose code is run from there (the figures of docs/speed.md are of
its commit e59536a). It needs diffusers and einops. Random weights, whose values change no time; float32 as it is, other
precisions under autocast, as the authors' trainer has it.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def build(
    kind: str, config: dict[str, Any], batch: int, frames: int, context: int, steps: int, dtype: str, device: str
) -> Callable[[], object]:
    """See docs/speed.md. `config`: of a long model that is told actions."""
    if "FAR" not in os.environ:
        sys.exit(__doc__)
    sys.path.insert(0, os.environ["FAR"])
    from far.models.far_long_model import FAR_Long  # type: ignore[import-not-found]

    network = FAR_Long(
        patch_size=config["patch"],
        context_patch_size=config["coarse_patch"],
        in_channels=config["latent_channels"],
        out_channels=config["latent_channels"],
        num_layers=config["layers"],
        attention_head_dim=config["head_dim"],
        num_attention_heads=config["heads"],
        axes_dims_rope=tuple(config["rope_axes"]),
        slope_scale=config["temporal_decay"],
        short_term_ctx_winsize=config["window"],
        condition_cfg={"type": "action", "num_action_classes": config["classes"]},
    ).to(device)
    precision = getattr(torch, dtype)
    autocast = torch.autocast(torch.device(device).type, precision, enabled=precision != torch.float32)
    shape = (config["latent_channels"], config["latent_size"], config["latent_size"])

    def actions(count: int) -> Tensor:
        return torch.randint(config["classes"], (batch, count), device=device)

    if kind == "train":
        clip, told = torch.randn(batch, frames, *shape, device=device), {"action": actions(frames)}
        times = torch.rand(batch, frames, device=device) * 1000

        def train() -> None:
            network.zero_grad(set_to_none=True)
            with autocast:
                answer = network(clip, times, conditions=told).sample[:, -config["window"] :]
            answer.float().square().mean().backward()

        return train

    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    network.eval()
    scheduler: Any = FlowMatchEulerDiscreteScheduler()
    state: dict[str, Any] = {
        "past": torch.randn(batch, context, *shape, device=device),
        "cache": {"is_cache_step": True, "kv_cache": {}, "cached_seqlen": 0, "multi_level_cache_init": False},
    }
    told_so_far = actions(context + 10_000)

    @torch.no_grad()
    def next_frame() -> None:
        past, cache = state["past"], state["cache"]
        clean = -torch.ones(batch, past.shape[1], device=device)
        x = torch.randn(batch, 1, *shape, device=device)
        scheduler.set_timesteps(steps, device=device)
        cache["is_cache_step"] = True
        for time in scheduler.timesteps:
            times = torch.cat([clean, time.expand(batch, 1)], dim=1)
            told = {"action": told_so_far[:, : past.shape[1] + 1]}
            with autocast:
                answer, cache = network(torch.cat([past, x], dim=1), times, cache, told, return_dict=False)
            cache["is_cache_step"] = False
            x = scheduler.step(answer.to(x.dtype), time, x).prev_sample
        state["past"], state["cache"] = torch.cat([past, x], dim=1), cache

    return next_frame
