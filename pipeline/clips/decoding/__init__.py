"""Media → arrays: the only package that reads with PyAV.

`decode` (plans requests, judges results), `isolation` and `child` (the process that decodes) use no
media library. `decoder` holds the protocol and the table of decoders. The rest is PyAV's decoder,
`pyav`, and what it is built on; `shrink` writes stored clips.
"""
