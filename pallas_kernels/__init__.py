"""Kernels of path estimators (GLAI, arXiv 2510.00883). Imports jax alone; every operation has a
plain XLA form.
"""

from pallas_kernels.dense_estimator import dense_estimator
from pallas_kernels.gates import pack_gates, unpack_gates
from pallas_kernels.path_contributions import path_contributions
from pallas_kernels.path_estimator import path_estimator

__all__ = ["dense_estimator", "pack_gates", "path_contributions", "path_estimator", "unpack_gates"]
