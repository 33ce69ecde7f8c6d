"""The alignment step written plainly in PyTorch: the named peer of launch/bench.py. Needs PyTorch.

Eager, or with its three heavy pieces (a guide block, a target block, the distance of a pair) under
torch.compile: each is compiled once and used by every layer, as PyTorch advises for deep stacks.
Attention is PyTorch's own fused one.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from launch.torch_similarity import cka_debiased

RATE = 1e-2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Pieces(NamedTuple):
    """What a step is made of, plain or compiled."""

    guide_block: Callable
    target_block: Callable
    distance: Callable


def tensors(tree, device, grad):
    """A nested dict of arrays as one of tensors."""
    return {
        k: (
            tensors(v, device, grad)
            if isinstance(v, dict)
            else torch.tensor(np.asarray(v), device=device).requires_grad_(grad)
        )
        for k, v in tree.items()
    }


def leaves(tree):
    """The tensors of a nested dict in order."""
    return [leaf for v in tree.values() for leaf in (leaves(v) if isinstance(v, dict) else [v])]


def cast(tree, dtype):
    """A nested dict of tensors in another dtype, differentiably."""
    return {k: cast(v, dtype) if isinstance(v, dict) else v.to(dtype) for k, v in tree.items()}


def dense(p, x):
    return F.linear(x, p["kernel"].T, p["bias"])


def norm(p, x):
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], 1e-5)


def mlp(p, x):
    return dense(p["c_proj"], F.gelu(dense(p["c_fc"], x), approximate="tanh"))


def attention(p, x, heads):
    b, t, d = x.shape
    q, k, v = (
        part.view(b, t, heads, d // heads).transpose(1, 2)
        for part in dense(p["c_attn"], x).split(d, dim=-1)
    )
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return dense(p["c_proj"], y.transpose(1, 2).reshape(b, t, d))


def elman(p, x):
    u = dense(p["input"], x)
    h, states = torch.zeros_like(u[:, 0]), []
    for t in range(x.shape[1]):
        h = torch.tanh(u[:, t] + h @ p["recurrent"])
        states.append(h)
    return torch.stack(states, 1)


def step_by_step(a, b):
    """h_t = a_t h_{t-1} + b_t over axis 1, one position after the other: the least work."""
    h, states = torch.zeros_like(a[:, 0]), []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, 1)


def doubling(a, b):
    """The same in log2 T rounds over whole arrays (Hillis and Steele 1986): for a GPU, where every
    round is a few kernels.
    """
    shift = 1
    while shift < a.shape[1]:
        b = b + a * F.pad(b, (0, 0, shift, 0))[:, :-shift]
        a = a * F.pad(a, (0, 0, shift, 0), value=1.0)[:, :-shift]
        shift *= 2
    return b


def linear(p, x):
    u, r, i, g = dense(p["input"], x).chunk(4, dim=-1)
    taps = p["taps"].shape[0]
    padded = F.pad(u, (0, 0, taps - 1, 0))
    u = sum(p["taps"][k] * padded[:, k : k + x.shape[1]] for k in range(taps))
    u, r, i = u.float(), r.float(), i.float()
    log_a = -8.0 * F.softplus(p["decay"].float()) * torch.sigmoid(r)
    a, b = torch.exp(log_a), torch.sqrt(-torch.expm1(2 * log_a) + 1e-12) * torch.sigmoid(i) * u
    h = doubling(a, b) if a.is_cuda else step_by_step(a, b)
    return F.gelu(g, approximate="tanh") * h.to(g.dtype)


MIXERS = {"elman": elman, "linear": linear}


def guide_block(block, h, heads):
    h = h + attention(block["attn"], norm(block["ln_1"], h), heads)
    return h + mlp(block["mlp"], norm(block["ln_2"], h))


def target_block(block, h, mix):
    h = h + dense(block["out"], mix(block["rnn"], norm(block["ln_1"], h)))
    return h + mlp(block["mlp"], norm(block["ln_2"], h))


def distance(x, y):
    return 1 - cka_debiased(x.flatten(0, 1).float(), y.flatten(0, 1).float())


def pieces(compiled: bool) -> Pieces:
    """The plain pieces, or each under torch.compile."""
    plain = Pieces(guide_block, target_block, distance)
    return Pieces(*(torch.compile(piece, dynamic=False) for piece in plain)) if compiled else plain


def loss(p, g, tokens, shape, mix, run: Pieces):
    """Mean distance over the blocks; p, g: variables of target and guide in the dtype that they
    compute in.
    """
    with torch.no_grad():
        theirs, h = [], g["embed"]["params"]["tokens"][tokens]
        h = h + g["embed"]["params"]["positions"][: tokens.shape[1]]
        for i in range(shape["depth"]):
            h = run.guide_block(g[f"block_{i + 1}"]["params"], h, shape["heads"])
            theirs.append(h)
    h, distances = p["embed"]["params"]["tokens"][tokens], []
    for i in range(shape["depth"]):
        h = run.target_block(p[f"block_{i + 1}"]["params"], h, mix)
        distances.append(run.distance(h, theirs[i]))
    return sum(distances) / shape["depth"]


def epoch(shape: dict[str, Any], cell: str, variables, guide, *, compute: str, compiled: bool):
    """run(batches (K, B, T + 1)) -> losses (K,): K SGD steps from these weights (trees of NumPy
    arrays).

    On the GPU where there is one; returns when the device is done. Weights are kept in float32,
    blocks compute in `compute`.
    """
    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", DTYPES[compute]
    frozen, made = cast(tensors(guide, device, False), dtype), pieces(compiled)

    def run(batches):
        params = tensors(variables, device, True)
        flat, losses = leaves(params), []
        for batch in torch.tensor(np.asarray(batches), device=device).long():
            value = loss(cast(params, dtype), frozen, batch[:, :-1], shape, MIXERS[cell], made)
            gradients = torch.autograd.grad(value, flat)
            with torch.no_grad():
                torch._foreach_add_(flat, gradients, alpha=-RATE)
            losses.append(value.detach())
        return torch.stack(losses).cpu().numpy()

    return run


def peak_bytes() -> int | None:
    """The most memory that tensors took on the GPU since the last call; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak
