"""XDC pretraining on Ray: raw videos in, a video and an audio encoder out."""
