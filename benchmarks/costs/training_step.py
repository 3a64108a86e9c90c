"""The share of a loss in a training step."""

from __future__ import annotations

import time
from typing import Any

import monai.losses
import torch
from monai.networks.nets import UNet
from torch import Tensor

from monai_lossext.losses import SoftDiceLoss
from monai_lossext.losses.paths import plain_path

from .cases import Case
from .contestants import Loss, reading


def training_step(case: Case, repeats: int) -> dict[str, Any]:
    """Train a U-Net of five levels for a step with each loss in turn, after a turn that warms up.

    Returns:
        ``step``, the seconds of each whole step (forward, loss, backward, optimiser) by loss, and ``loss``, those of
        the loss's value and gradient in it.
    """
    torch.manual_seed(0)
    network = UNet(
        spatial_dims=case.dims,
        in_channels=1,
        out_channels=case.classes,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )
    optimizer = torch.optim.Adam(network.parameters())
    image = torch.randn(case.batch, 1, *[case.side] * case.dims)
    _, label = case.tensors()
    ours = SoftDiceLoss(**reading(case))

    def unfused(logits: Tensor, label: Tensor) -> Tensor:
        with plain_path():
            return ours(logits, label)

    losses: dict[str, Loss] = {
        "MONAI DiceLoss": monai.losses.DiceLoss(**reading(case)),
        "SoftDiceLoss, plain path": unfused,
        "SoftDiceLoss": ours,
    }
    seconds: dict[str, Any] = {part: {name: [] for name in losses} for part in ("step", "loss")}
    for turn in range(repeats + 1):
        for name, loss in losses.items():
            start = time.perf_counter()
            optimizer.zero_grad()
            logits = network(image)
            before = time.perf_counter()
            output = logits.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(output, label), output)
            after = time.perf_counter()
            logits.backward(gradient)
            optimizer.step()
            if turn > 0:
                seconds["loss"][name].append(after - before)
                seconds["step"][name].append(time.perf_counter() - start)
    return seconds
