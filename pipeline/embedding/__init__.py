"""Clips → feature shards: the encoders over all clips, on Ray Data."""
