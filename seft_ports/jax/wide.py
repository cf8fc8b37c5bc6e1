"""This import fails where JAX has no 64-bit numbers, because JAX would silently cut positions to 32 bits."""

import jax

if jax.dtypes.canonicalize_dtype("int64") != "int64":
    raise ImportError(
        "seft_ports.jax needs 64-bit integers (TOP-003, RNG-001) and binary64 scalars (SEL-006, OPT-002): "
        'say jax.config.update("jax_enable_x64", True) before this import, or set JAX_ENABLE_X64=1'
    )
