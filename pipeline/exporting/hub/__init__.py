"""Code that an exported folder brings for transformers: copied there, not imported here.

A copy runs beside ``encoder.py``, where this package is not installed: the files import stock
packages and each other.
"""
