"""Media → arrays: the only package that reads with PyAV.

Above the seam, free of any library: `decode` (plans requests, judges results), `isolation` and
`child` (the process that decodes). The seam: `decoder` (the protocol and the table of decoders).
Below it, PyAV's part: `pyav`, on `media`, `tracks`, `ranges`, `packets`, `frames`, `scaling`,
`samples`, `probe`, and `shrink`, which writes stored clips.
"""
