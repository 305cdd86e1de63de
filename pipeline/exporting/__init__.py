"""Encoders for other tools: files that stock software loads, without this package."""
