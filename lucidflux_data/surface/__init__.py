"""What notebooks and scripts import: runs, selections, pairs, single images. `lucidflux_data` exports it."""
