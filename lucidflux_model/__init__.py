"""The LucidFlux model: conditioner, inference, training."""

import logging

# Where bitsandbytes is installed, importing diffusers makes it say that an optional CPU kernel is not.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
