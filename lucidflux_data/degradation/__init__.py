"""Degrades images as Real-ESRGAN does: a plan is drawn from a seed, an executor carries it out."""
