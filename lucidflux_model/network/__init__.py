"""The parts that diffusers and transformers do not have: condition branches, modulation, proxy, tiling, schedule."""
