"""Learning-rate schedules as pure functions of the step: a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from posttrain.configs.schema import Optimizer

FLOOR = 0.1  # linear and cosine end at a tenth of the peak


def learning_rate(optimizer: Optimizer, step: int, total: int) -> float:
    """The rate for optimizer step `step` (from 0) of `total`."""
    if step < optimizer.warmup:
        return optimizer.lr * (step + 1) / (optimizer.warmup + 1)
    share = min(1.0, (step - optimizer.warmup) / max(1, total - optimizer.warmup))
    match optimizer.schedule:
        case "constant":
            return optimizer.lr
        case "linear":
            return optimizer.lr * (1 - (1 - FLOOR) * share)
        case "cosine":
            return optimizer.lr * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * share)))
