"""Where MONAI's losses return NaN, a wrong value or no gradient, and what the same call returns here.

    python benchmarks/hard_cases.py

prints a Markdown table: one row a case, MONAI's class and this package's beside each other. ``ok`` means that the value
agrees with float64 arithmetic on the same input to 1e-3 and that the gradient is finite and not all zero. On empty and
full targets, where the two packages deliberately differ, only the gradient is judged.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import monai.losses
import torch
from torch import Tensor, nn

from monai_lossext.losses import MatthewsCorrelationLoss, SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss

PAIRS: dict[str, tuple[Any, Any]] = {
    "Dice": (monai.losses.DiceLoss, SoftDiceLoss),
    "Jaccard": (lambda **options: monai.losses.DiceLoss(jaccard=True, **options), SoftJaccardLoss),
    "Tversky": (monai.losses.TverskyLoss, SoftTverskyLoss),
    "MCC": (monai.losses.MCCLoss, MatthewsCorrelationLoss),
}


@dataclass(frozen=True)
class Case:
    """One input and target; ``options`` are the activation, ``judged`` whether the value has one right answer."""

    name: str
    input: Tensor
    target: Tensor
    options: dict[str, bool]
    judged: bool = True


def cases() -> Iterator[Case]:
    """Yield the cases of the table."""
    random = torch.Generator().manual_seed(0)
    sizes = [(8, 8), (32, 32), (128, 128), (256, 256), (64, 64, 64)]
    for dtype in (torch.float16, torch.bfloat16):
        for kind in ("probabilities", "logits"):
            for size in sizes:
                target = (torch.rand(1, 1, *size, generator=random) < 0.3).float()
                logits = torch.randn(1, 1, *size, generator=random) + 4 * target - 2
                x = (logits.sigmoid() if kind == "probabilities" else logits).to(dtype)
                options = {"sigmoid": True} if kind == "logits" else {}
                name = f"{str(dtype).removeprefix('torch.')} {kind}, {' x '.join(map(str, size))}"
                yield Case(name, x, target.to(dtype), options)
    logits = torch.randn(1, 1, 64, 64, generator=random)
    for name, fill in (("empty target", 0.0), ("full target", 1.0)):
        yield Case(f"float32 logits, {name}", logits, torch.full_like(logits, fill), {"sigmoid": True}, judged=False)
    target = (torch.rand(1, 1, 64, 64, generator=random) < 0.3).float()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        wrong = (60 * (1 - 2 * target)).to(dtype)
        yield Case(f"{name} logits of +-60, all wrong, sigmoid", wrong, target.to(dtype), {"sigmoid": True})
        two = torch.cat([-wrong, wrong], 1)
        both = torch.cat([1 - target, target], 1).to(dtype)
        yield Case(f"{name} logits of +-60, all wrong, softmax", two, both, {"softmax": True})


def verdict(loss: nn.Module, exact: nn.Module, case: Case) -> str:
    """Return "ok" or what is wrong with the value or the gradient of ``loss``."""
    x = case.input.clone().requires_grad_()
    value = loss(x, case.target)
    value.backward()
    expected = exact(case.input.double(), case.target.double()).item()
    gradient = x.grad
    assert gradient is not None
    if not torch.isfinite(value):
        return f"value {value.item()}"
    if not torch.isfinite(gradient).all():
        return "gradient NaN or inf"
    if case.judged and abs(value.item() - expected) > 1e-3:
        return f"{value.item():.3f}, exact {expected:.3f}"
    return "ok" if gradient.any() else "no gradient"


def table() -> list[dict[str, str]]:
    """Return one row a case: its name and, for each pair of losses, the verdict on MONAI's and on ours."""
    rows = []
    for case in cases():
        row = {"case": case.name}
        for name, (theirs, ours) in PAIRS.items():
            row[f"MONAI {name}"] = verdict(theirs(**case.options), theirs(**case.options), case)
            row[f"our {name}"] = verdict(ours(**case.options), ours(**case.options), case)
        rows.append(row)
    return rows


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    rows = table()
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    print(f"\nmonai {monai.__version__}, torch {torch.__version__}, CPU")
