"""Media → arrays: the only package that reads with PyAV.

`decode` (plans requests, judges results), `isolation` and `child` (the process that decodes) use no
media library. `decoder` holds the protocol and the table of decoders. The rest is PyAV's decoder,
`pyav`, and what it is built on; `shrink` writes stored clips.

- A file: `media` opens it, if it is of the `formats` that count and none of `archives`, and chooses
  `tracks`, of one of its `programs`, without `encryption`. `ranges` reads it from storage, by what
  `byte_index` and `index_entries` know. `probe` measures it. `pieces` and `layout` are of files
  whose clock starts anew.
- `packets` finds what a stretch of time needs.
- Pictures: `clock` (when each is shown), `frames` (decodes them), `nal`, `pace`, `orientation`,
  `colour`, `scaling`.
- Sound: `audio_decoders`, `samples`, `mixing`, `resampling`.
"""
