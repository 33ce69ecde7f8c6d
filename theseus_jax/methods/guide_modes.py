"""In which mode the batch norm of an untrained guide runs."""

from __future__ import annotations

from typing import Any, Callable

import flax.linen as nn
import jax
import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.methods.recalibrate import batch_statistics
from theseus_jax.nets.modes import mode_arguments
from theseus_jax.nets.stage import Network, Stage, Variables, variable_shapes
from theseus_jax.trees import leaves_by_path

GUIDE_MODES = ("identity", "batch", "calibrated")


class BatchMode(nn.Module):
    """`inner` as in training, whatever the caller says, but learning nothing: batch norm uses each
    batch's own statistics and leaves the running ones as they are, and dropout is off, for a guide
    is given no key.

    Its variables are those of `inner`, by the same names. inner: a module that takes `train` or
    another word of `MODES`. A single example is no batch, and is run as in evaluation.
    """

    inner: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.inner)

    def __call__(self, x: Any) -> Any:
        if self.is_initializing():
            return self.inner(x, **mode_arguments(self.inner, False))

        def interceptor(run: Callable[..., Any], args: tuple, kwargs: dict, context: Any) -> Any:
            off = isinstance(context.module, nn.Dropout) and context.method_name == "__call__"
            return args[0] if off else run(*args, **kwargs)

        with nn.intercept_methods(interceptor):
            mode = mode_arguments(self.inner, len(jax.tree.leaves(x)[0]) > 1)
            return self.inner.clone(parent=None).apply(
                self.variables, x, mutable=["batch_stats"], **mode
            )[0]


def guide_mode(net: Network, variables: Variables, x: Any, mode: str) -> tuple[Network, Variables]:
    """An UNTRAINED guide with batch norm in a declared mode: the network and the variables to run
    it with.

    Its running statistics are still 0 and 1, so what a guide transfers depends on how it is run,
    which the published code of guidance (arXiv 2410.20035) leaves to whether the guide happens to
    be in evaluation or training mode:
    - "identity": evaluation as initialised. Batch norm divides by sqrt(1 + epsilon) and nothing
      else, so scales grow or shrink with depth; an example's activations do not depend on its
      batch. Network and variables as given.
    - "batch": training mode. Every batch's own statistics normalise it, so an example's activations
      depend on its batch. Stages with batch statistics are wrapped in `BatchMode`; the variables
      are as given and nothing updates them.
    - "calibrated": `batch_statistics` over x, once: normalised as in "batch", but fixed, so that
      they can be stored.
    x: rows (N, ...) for the first stage; read in "calibrated" alone. For an evaluation of a trained
    guide use none of them.
    Raises UserError for another mode, for "identity" where statistics are no longer 0 and 1, and
    for "batch" where a stage with batch statistics takes no `train`.
    """
    held = [stage for stage in net.stages if variables.get(stage.name, {}).get("batch_stats")]
    if mode not in GUIDE_MODES:
        raise UserError(f"there is no guide mode {mode!r}; take one of {', '.join(GUIDE_MODES)}")
    if mode == "calibrated":
        return net, batch_statistics(net, variables, x)
    if mode == "identity":
        moved = [
            f"{stage.name}/{path}"
            for stage in held
            for path, leaf in leaves_by_path(variables[stage.name]["batch_stats"]).items()
            if not np.all(np.asarray(leaf) == (path.split("/")[-1] == "var"))
        ]
        if moved:
            raise UserError(
                f"guide mode 'identity' means means of 0 and variances of 1, but {moved[0]} has"
                " other values; take 'calibrated', or the guide's first variables"
            )
        return net, variables
    fixed = [stage.name for stage in held if not mode_arguments(stage.module, True)]
    if fixed:
        raise UserError(
            f"guide mode 'batch' needs stages that take train; {', '.join(fixed)} has batch"
            " statistics and does not take it; give its __call__ a train argument, or take"
            " 'calibrated'"
        )
    wrapped = {stage.name: Stage(stage.name, BatchMode(stage.module)) for stage in held}
    return (
        Network(tuple(wrapped.get(stage.name, stage) for stage in net.stages), net.ties),
        variables,
    )


def batch_mode(net: Network, example: Any) -> Network:
    """The network of `guide_mode(..., "batch")`, from the shape of one input (1, ...) alone."""
    shapes = variable_shapes(net, example)
    return guide_mode(net, shapes, None, "batch")[0]
