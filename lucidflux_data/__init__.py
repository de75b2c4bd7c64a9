"""Pure data code: bytes, arrays, tables, tars. Importing it loads neither ray nor torch."""

from lucidflux_data.images import ImageError, decode, decode_full

__all__ = ["ImageError", "decode", "decode_full"]
