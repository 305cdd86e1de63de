"""From media files to tensors: index, probe, decode, sample, stream."""
