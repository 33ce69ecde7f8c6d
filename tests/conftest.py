"""One CPU device, strict shapes, and a compilation cache that lives outside the checkout."""
import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402

_cache = os.environ.get("THESEUS_TEST_CACHE", str(pathlib.Path(tempfile.gettempdir()) / "theseus_jax_test_cache"))
jax.config.update("jax_compilation_cache_dir", _cache)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
