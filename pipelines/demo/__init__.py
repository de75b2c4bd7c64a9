"""`lucidflux demo`: real photos through every job in two minutes."""
