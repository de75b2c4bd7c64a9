"""Ray at the edge: the only folder that imports ray."""
