"""Vectors of any media by any encoder: a table of them, files for other tools, and a search."""
