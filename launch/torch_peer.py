"""The alignment step written plainly in PyTorch eager: the named peer of launch/bench.py. Needs the extra [bench]."""
from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

RATE = 1e-2


def tensors(tree, grad):
    return {k: tensors(v, grad) if isinstance(v, dict) else torch.tensor(np.asarray(v)).requires_grad_(grad)
            for k, v in tree.items()}


def leaves(tree):
    return [leaf for v in tree.values() for leaf in (leaves(v) if isinstance(v, dict) else [v])]


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def norm(p, x):
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], 1e-5)


def mlp(p, x):
    return dense(p["c_proj"], F.gelu(dense(p["c_fc"], x), approximate="tanh"))


def attention(p, x, heads):
    b, t, d = x.shape
    q, k, v = (part.view(b, t, heads, d // heads).transpose(1, 2) for part in dense(p["c_attn"], x).split(d, dim=-1))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return dense(p["c_proj"], y.transpose(1, 2).reshape(b, t, d))


def elman(p, x):
    u = dense(p["input"], x)
    h, states = torch.zeros_like(u[:, 0]), []
    for t in range(x.shape[1]):
        h = torch.tanh(u[:, t] + h @ p["recurrent"])
        states.append(h)
    return torch.stack(states, 1)


def linear(p, x):
    u, r, i, g = dense(p["input"], x).chunk(4, dim=-1)
    taps = p["taps"].shape[0]
    padded = F.pad(u, (0, 0, taps - 1, 0))
    u = sum(p["taps"][k] * padded[:, k: k + x.shape[1]] for k in range(taps))
    log_a = -8.0 * F.softplus(p["decay"]) * torch.sigmoid(r)
    a, b = torch.exp(log_a), torch.sqrt(-torch.expm1(2 * log_a) + 1e-12) * torch.sigmoid(i) * u
    h, states = torch.zeros_like(a[:, 0]), []
    for t in range(x.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return F.gelu(g, approximate="tanh") * torch.stack(states, 1)


def debiased_cka(x, y):
    n = x.shape[0]
    x, y = x - x.mean(0), y - y.mean(0)

    def hsic(x, y):
        a, b = (x * x).sum(1), (y * y).sum(1)
        # row sums of the Grams without their diagonals: centred features make the full row sums zero
        return (((x.T @ y) ** 2).sum() - (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2))
                - 2 / (n - 2) * (a * b).sum())

    return hsic(x, y) / torch.sqrt(hsic(x, x) * hsic(y, y))


MIXERS = {"elman": elman, "linear": linear}


def loss(p, g, tokens, depth, heads, mix):
    with torch.no_grad():
        theirs, h = [], g["embed"]["params"]["tokens"][tokens] + g["embed"]["params"]["positions"][: tokens.shape[1]]
        for i in range(depth):
            block = g[f"block_{i + 1}"]["params"]
            h = h + attention(block["attn"], norm(block["ln_1"], h), heads)
            h = h + mlp(block["mlp"], norm(block["ln_2"], h))
            theirs.append(h)
    h, distances = p["embed"]["params"]["tokens"][tokens], []
    for i in range(depth):
        block = p[f"block_{i + 1}"]["params"]
        h = h + dense(block["out"], mix(block["rnn"], norm(block["ln_1"], h)))
        h = h + mlp(block["mlp"], norm(block["ln_2"], h))
        distances.append(1 - debiased_cka(h.flatten(0, 1), theirs[i].flatten(0, 1)))
    return sum(distances) / depth


def epoch(shape, cell, variables, guide):
    """run(batches (K, B, T + 1)) -> losses (K,): K SGD steps from these weights (trees of NumPy arrays), PyTorch eager."""
    frozen = tensors(guide, False)

    def run(batches):
        params = tensors(variables, True)
        flat, losses = leaves(params), []
        for batch in torch.tensor(np.asarray(batches)).long():
            value = loss(params, frozen, batch[:, :-1], shape["depth"], shape["heads"], MIXERS[cell])
            for leaf, gradient in zip(flat, torch.autograd.grad(value, flat)):
                leaf.data.sub_(gradient, alpha=RATE)
            losses.append(value.detach())
        return torch.stack(losses).numpy()

    return run
