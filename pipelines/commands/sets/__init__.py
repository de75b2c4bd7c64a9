"""Commands of `lucidflux-data` on a set that is finished."""
