"""A ReLU MLP inside any network becomes one GLAI stage: for a converted network, a projection head,
a classifier.
"""

from __future__ import annotations

from typing import Any, Sequence

from theseus_jax.errors import UserError
from theseus_jax.methods.glai.selection import select
from theseus_jax.methods.glai.variables import head_variables
from theseus_jax.nets.models.glai import GLAIHead
from theseus_jax.nets.models.heads import Hidden, Output, layers_of
from theseus_jax.nets.stage import Network, Stage, Variables, forward, position


def replace_mlp(
    net: Network,
    variables: Variables,
    stages: Sequence[str],
    x: Any,
    *,
    keep: int,
    name: str = "glai",
) -> tuple[Network, Variables]:
    """(network, variables) in which consecutive `stages`, a trained ReLU MLP, are one `GLAIHead`
    stage called `name`.

    x: inputs of the network, (N, ...); what reaches the MLP on them is the reference set of the
    joint selection. keep: paths shared by all outputs. Every other stage keeps its variables; train
    the part f"{name}/estimator". With every path kept the outputs are the same up to rounding.
    Raises UserError for stages that do not follow each other, or that are not `heads.Hidden` layers
    (ReLU) and one `heads.Output`.
    """
    first = position(net, stages[0])
    if tuple(stages) != net.names[first : first + len(stages)]:
        raise UserError(
            f"stages {', '.join(stages)} do not follow each other in {', '.join(net.names)}; name"
            " neighbours in order"
        )
    modules = {stage.name: stage.module for stage in net.stages}
    wrong = [
        f"{stage} is a {type(modules[stage]).__name__}"
        for stage, kind in zip(stages, [Hidden] * (len(stages) - 1) + [Output])
        if not isinstance(modules[stage], kind)
    ]
    if wrong or len(stages) < 2:
        raise UserError(
            f"{'; '.join(wrong) or 'one stage'}: only ReLU layers (heads.Hidden) and a linear one"
            " (heads.Output) become paths, since paths need gates that are open or shut"
        )
    mine = [f"hidden_{i}" for i in range(1, len(stages))] + ["output"]
    layers = layers_of({own: variables[stage] for own, stage in zip(mine, stages)})
    reached = x if first == 0 else forward(net, variables, x, stop=net.names[first - 1])[0]
    chosen = select(layers, reached.reshape(-1, reached.shape[-1]), kind="joint", keep=keep)
    head = GLAIHead(tuple(kernel.shape[1] for kernel, _ in layers[:-1]), len(layers[-1][1]), keep)
    kept = [stage for stage in net.stages if stage.name not in stages]
    made = Network(
        (*kept[:first], Stage(name, head), *kept[first:]),
        tuple(tie for tie in net.ties if not {tie.stage, tie.source} & set(stages)),
    )
    others = {stage.name: variables[stage.name] for stage in kept}
    return made, {**others, name: head_variables(layers, chosen)}
