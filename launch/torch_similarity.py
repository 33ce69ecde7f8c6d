"""Similarity measures as one would write them in PyTorch: the named peer of
launch/bench_similarity.py. Needs PyTorch.

Each takes x (N, P) and y (N, Q), float32, and returns a scalar; the smaller of the N x N and the P
x Q problem is taken.
"""

from __future__ import annotations

import torch


def centred(x):
    return x - x.mean(0)


def unit(x):
    x = centred(x)
    return x / x.norm(dim=1, keepdim=True)


def _hsic(x, y):
    """HSIC of linear kernels up to its factor, of centred features."""
    if x.shape[0] <= max(x.shape[1], y.shape[1]):
        return ((x @ x.T) * (y @ y.T)).sum()
    return ((x.T @ y) ** 2).sum()


def cka_biased(x, y):
    x, y = centred(x), centred(y)
    return _hsic(x, y) / torch.sqrt(_hsic(x, x) * _hsic(y, y))


def _hsic_1(x, y):
    """Song et al. 2012, equation 5, up to its factor n (n - 3), of centred features."""
    n = x.shape[0]
    if n <= max(x.shape[1], y.shape[1]):
        k, l = (z @ z.T for z in (x, y))
        k, l = (z - torch.diag(torch.diagonal(z)) for z in (k, l))
        return (
            (k * l).sum()
            + k.sum() * l.sum() / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (k.sum(0) * l.sum(0)).sum()
        )
    a, b = (x * x).sum(1), (y * y).sum(1)
    return (
        ((x.T @ y) ** 2).sum()
        - (a * b).sum()
        + a.sum() * b.sum() / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (a * b).sum()
    )


def cka_debiased(x, y):
    x, y = centred(x), centred(y)
    return _hsic_1(x, y) / torch.sqrt(_hsic_1(x, x) * _hsic_1(y, y))


def procrustes(x, y):
    x, y = (centred(z) / centred(z).norm() for z in (x, y))
    return 2 - 2 * torch.linalg.svdvals(x.T @ y).sum()


def rsa(x, y):
    above = torch.triu_indices(len(x), len(x), 1, device=x.device)
    d = [torch.cdist(z, z)[above[0], above[1]] for z in (x, y)]
    return torch.corrcoef(torch.stack(d))[0, 1]


def _members(x, k, temperature):
    similarity = unit(x) @ unit(x).T
    hidden = similarity.detach().clone().fill_diagonal_(-torch.inf)
    top = hidden.topk(k + 1, dim=1).values
    threshold = (top[:, k - 1] + top[:, k])[:, None] / 2
    return torch.sigmoid((similarity - threshold) / temperature) * (
        1 - torch.eye(len(x), device=x.device)
    )


def dmnn(x, y, k=10, temperature=0.02):
    a, b = _members(x, k, temperature), _members(y, k, temperature)
    return (a * b).sum() / torch.sqrt((a * a).sum() * (b * b).sum())


def dmnn_softmax(x, y, temperature=0.02):
    hidden = torch.eye(len(x), device=x.device, dtype=bool)
    logs = [
        ((unit(z) @ unit(z).T) / temperature).masked_fill(hidden, -1e9).log_softmax(1)
        for z in (x, y)
    ]
    return ((logs[0] + logs[1]) / 2).exp().sum(1).mean()


def ridge(x, y, folds=5, penalty=0.01):
    x, y = centred(x), centred(y)
    error, eye = 0.0, torch.eye(min(x.shape), device=x.device)
    fold = torch.arange(len(x), device=x.device) * folds // len(x)
    for f in range(folds):
        test = fold == f
        mean_x, mean_y = x[~test].mean(0), y[~test].mean(0)
        a, b = x[~test] - mean_x, y[~test] - mean_y
        c = penalty * (a * a).sum() / x.shape[1]
        if len(x) > x.shape[1]:
            weights = torch.linalg.solve(a.T @ a + c * eye, a.T @ b)
        else:
            weights = a.T @ torch.linalg.solve(a @ a.T + c * eye[: len(a), : len(a)], b)
        error = error + ((y[test] - mean_y - (x[test] - mean_x) @ weights) ** 2).sum()
    return 1 - error / (y * y).sum()


def mse(x, y):
    return 1 - ((x - y) ** 2).sum() / (centred(y) ** 2).sum()


def mutual_knn(x, y, k=10):
    near = []
    for z in (x, y):
        similarity = (unit(z) @ unit(z).T).fill_diagonal_(-torch.inf)
        near.append(torch.zeros_like(similarity).scatter_(1, similarity.topk(k, dim=1).indices, 1))
    return (near[0] * near[1]).sum() / (k * len(x))


MEASURES = {
    "cka_debiased": cka_debiased,
    "cka_biased": cka_biased,
    "mse": mse,
    "rsa": rsa,
    "dmnn": dmnn,
    "dmnn_softmax": dmnn_softmax,
    "mutual_knn": mutual_knn,
    "ridge": ridge,
    "procrustes": procrustes,
}


def value_and_gradient(name, x, y):
    """run() -> (value, gradient by x or None) on the GPU where there is one, done when it returns;
    x, y: NumPy arrays.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = (torch.tensor(z, device=device) for z in (x, y))

    def run():
        given = x.detach().requires_grad_(name != "mutual_knn")
        value = MEASURES[name](given, y)
        gradient = torch.autograd.grad(value, given)[0] if given.requires_grad else None
        if device == "cuda":
            torch.cuda.synchronize()
        return value.item(), None if gradient is None else gradient

    return run
