"""The paper's estimator (arXiv 2510.00883, Listing 1) as a whole training step in PyTorch eager:
the peer of bench_glai.

The weight is [outputs, inputs, n_weights] and the gate [batch, n_weights]. The listing leaves open
what n_weights counts: `units` = all hidden units is the unpruned estimator; `units` = K / (inputs
outputs) whole units is the only reading in which listing and budget agree. Needs the extra [bench].
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


class Listing:
    """Frozen selector forward, estimator forward and backward, AdamW: one call is one step on (x,
    labels).
    """

    def __init__(
        self, kernel: np.ndarray, bias: np.ndarray, weights: np.ndarray, rate: float
    ) -> None:
        self.kernel, self.bias = torch.tensor(kernel), torch.tensor(bias)
        self.weights = torch.tensor(weights).requires_grad_(True)
        self.optimizer = torch.optim.AdamW([self.weights], lr=rate, weight_decay=0.0)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(B, I) -> (B, O): the product of inputs and gates is formed first, as in the listing."""
        with torch.no_grad():
            gates = (x @ self.kernel + self.bias > 0).to(x.dtype)
        contributions = x[:, :, None] * gates[:, None, :]
        return torch.einsum("bij,oij->bo", contributions, self.weights)

    def step(self, x: np.ndarray, labels: np.ndarray) -> float:
        """One optimizer step; the loss before it, nats."""
        loss = F.cross_entropy(self.logits(torch.tensor(x)), torch.tensor(labels))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())
