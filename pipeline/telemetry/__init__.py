"""What people and monitors see of a run: progress, events, metrics, trackers."""
