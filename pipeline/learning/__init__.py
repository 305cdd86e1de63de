"""Pseudo-labels → encoders: one update of a method, on Ray Train."""
