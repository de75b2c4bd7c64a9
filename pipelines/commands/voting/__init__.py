"""Commands of `lucidflux bench` that ask people."""
