"""The LucidFlux model: conditioner, inference, training.

The public name is looked up when it is used, so that importing the package loads no torch:

    restore  pictures in, restored pictures out, in one call
"""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lucidflux_model.inference.restoring import restore

__all__ = ["restore"]

# Where bitsandbytes is installed, importing diffusers makes it say that an optional CPU kernel is not.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lucidflux_data.errors import needs_extra

    with needs_extra("model"):
        from lucidflux_model.inference import restoring
    return getattr(restoring, name)
