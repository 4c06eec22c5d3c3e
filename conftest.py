"""Strict JAX for every test: implicit rank promotion and dtype promotion raise.

Eight virtual CPU devices, so that one process can build meshes of 1, 2 and 8.
"""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
