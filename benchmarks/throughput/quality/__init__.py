"""Scripts that measure how well rules tell images apart."""
