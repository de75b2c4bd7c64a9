"""`lucidflux restore` on folders, buckets and clusters."""
