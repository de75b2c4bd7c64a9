"""The house of the HTML pages: one frame, one stylesheet, charts that zoom. A page is one file, without network."""
