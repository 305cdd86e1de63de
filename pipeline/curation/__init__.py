"""Choosing clips by the clusters of a run: what to keep, and why the rest is left out."""
