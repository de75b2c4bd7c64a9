"""Topics of parts whose cost must grow no faster than their work: verify, near-duplicates, tables, stores."""
