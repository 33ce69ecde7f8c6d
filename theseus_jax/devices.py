"""Several local devices: the batch is cut over them, all else is on each, and one program runs on
all (GSPMD), so that whatever reads a whole batch, as a similarity does, reads the whole of it.
"""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

LOG = logging.getLogger("theseus_jax")
BATCH = "batch"


@functools.lru_cache(maxsize=64)
def mesh_for(batch: int) -> Mesh | None:
    """A mesh of as many local devices as cut `batch` examples evenly; None for one."""
    devices = jax.local_devices()
    count = math.gcd(batch, len(devices))
    if len(devices) > 1:
        told = "" if count == len(devices) else "; give a train.batch that all of them divide"
        LOG.info("batches of %d on %d of %d devices%s", batch, count, len(devices), told)
    return Mesh(np.array(devices[:count]), (BATCH,)) if count > 1 else None


def spread(tree: Any, mesh: Mesh | None) -> Any:
    """Every array whole on each device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec())) if mesh else tree


def cut(batch: Any, mesh: Mesh | None) -> Any:
    """Inside jit: leaves (B, ...) of which each device holds its share of rows."""
    if mesh is None:
        return batch
    rows = NamedSharding(mesh, PartitionSpec(BATCH))
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, rows), batch)


def gathered(tree: Any, mesh: Mesh | None) -> Any:
    """What is whole on each device, on the first alone."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree) if mesh else tree
