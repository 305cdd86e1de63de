"""Media → arrays: the only package that imports PyAV."""
