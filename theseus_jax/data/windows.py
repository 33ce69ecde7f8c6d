"""Windows of a token stream, in which every target counts once."""

from __future__ import annotations

import numpy as np

from theseus_jax.errors import UserError


def windows(tokens: np.ndarray, context: int, split: str = "train") -> np.ndarray:
    """Windows (N, context + 1) int32 of a stream (T,): inputs `[:, :-1]`, targets `[:, 1:]`.

    Window i is `tokens[i * context : i * context + context + 1]`, N = (T - 1) // context:
    neighbours share one token, the last target of one being the first input of the next. The up to
    context - 1 tokens after the last whole window are left out. `split` names the stream in errors.

    Raises UserError for a context below 1 or a stream shorter than context + 1 tokens.
    """
    return views(tokens, context, split).astype(np.int32)


def views(tokens: np.ndarray, context: int, split: str = "train") -> np.ndarray:
    """`windows` that are not copied, of the stream's dtype: of a stream in a file, in the file."""
    _check_stream(tokens, context, split)
    found = np.lib.stride_tricks.sliding_window_view(tokens, context + 1, subok=True)
    return found[::context]


def evaluation_windows(
    tokens: np.ndarray, context: int, split: str = "validation"
) -> tuple[np.ndarray, np.ndarray]:
    """Windows (N, context + 1) int32 of the whole stream (T,), and the mask (N, context) bool of
    targets.

    N = ceil((T - 1) / context); the last window is padded with zeros, which the mask leaves out.
    Every token but the first is a target exactly once: `windows[:, 1:][mask]` is `tokens[1:]`.

    Raises UserError as `windows` does.
    """
    _check_stream(tokens, context, split)
    targets = tokens.size - 1
    count = -(-targets // context)
    padded = np.zeros(count * context + 1, tokens.dtype)
    padded[: tokens.size] = tokens
    return windows(padded, context, split), (np.arange(count * context) < targets).reshape(
        count, context
    )


def _check_stream(tokens: np.ndarray, context: int, split: str) -> None:
    if context < 1:
        raise UserError(f"context is {context} tokens; expected at least 1; raise it")
    if tokens.size < context + 1:
        raise UserError(
            f"the {split} split has {tokens.size} tokens; a context of {context} needs "
            f"{context + 1}; lower the context, or give more text"
        )
