"""64-bit keys of inputs: all that is held of millions of files and cuts.

A file's key is a hash of its URI; a cut's key is its id, which is such a hash. Two of 65 million
inputs share a key in one of 8,700 tables (n² / 2⁶⁵). The later one of these two then counts as
known, or as repeated, and is not indexed. Clip ids are as long, so labels that are joined by them
run the same risk, and nothing here compares the texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clips.cut_tables import cut_id

_BYTES = 8
_NO_ID = "0" * 2 * _BYTES
_NIBBLES = np.full(256, 255, np.uint8)
_NIBBLES[list(b"0123456789abcdef")] = np.arange(16)
_EXACT = 2.0**53  # whole numbers up to here are exact in float64
# What a lost modality adds to the key of its input, in a table of rejects.
MODALITIES = {None: 0, "video": 0x9E3779B97F4A7C15, "audio": 0xC2B2AE3D27D4EB4F}


def uri_keys(uris: pa.ChunkedArray) -> np.ndarray:
    """uint64 [rows], without nulls."""
    found = []
    for chunk in uris.chunks:
        distinct = chunk.dictionary_encode()
        found.append(_hashed(distinct.dictionary.to_pylist())[distinct.indices.to_numpy()])
    return _concatenated(found)


def id_keys(ids: pa.ChunkedArray) -> np.ndarray:
    """uint64 [rows] of cut ids; 0 of a null, and of what is no id."""
    return _concatenated([_parsed(chunk) for chunk in ids.chunks if len(chunk)])


def keys_of(uris: pa.ChunkedArray, ids: pa.ChunkedArray) -> np.ndarray:
    """uint64 [rows] of inputs, by their cut ids (null: whole files, by their URIs)."""
    is_cut = ids.is_valid().to_numpy()
    if is_cut.all():
        return id_keys(ids)
    return np.where(is_cut, id_keys(ids), uri_keys(uris))


def reject_keys(rejected: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """uint64 [rows] each: the inputs, and the inputs with what they lost (`rejects.SCHEMA`)."""
    inputs = keys_of(rejected["uri"], rejected["clip_id"])
    lost = [MODALITIES.get(name, 1) for name in rejected["modality"].to_pylist()]
    return inputs, inputs ^ np.array(lost, np.uint64)


def cut_ids(rows: pa.Table) -> pa.ChunkedArray:
    """`cut_id` of every row of a listing, null where it is a whole file."""
    start, end = rows["start_s"], rows["end_s"]
    if start.null_count == len(rows):
        return pa.chunked_array([pa.nulls(len(rows), pa.string())])
    edges = [pc.round(pc.multiply(column, 1000.0)) for column in (start, end)]
    if max(abs(edge) for edges_ in map(pc.min_max, edges) for edge in _both(edges_)) < _EXACT:
        # As `clip_id` writes them.
        texts = [edge.cast(pa.int64()).cast(pa.string()) for edge in edges]
        asked = pc.binary_join_element_wise(rows["uri"], *texts, "\n").to_pylist()
        ids = [None if text is None else _digest(text).hexdigest() for text in asked]
    else:
        columns = (column.to_pylist() for column in (rows["uri"], start, end))
        ids = [cut_id(*cut) for cut in zip(*columns)]
    return pa.chunked_array([pa.array(ids, pa.string())])


def distinct(parts: Iterable[np.ndarray]) -> np.ndarray:
    """uint64, sorted: every key once."""
    keys = _concatenated([*parts])
    keys.sort()  # numpy's unique takes twenty times as long
    return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys


def repeated(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """uint64, sorted: the keys that are there more than once; and how many different ones are."""
    keys = _concatenated([*parts])
    keys.sort()
    again = keys[1:] == keys[:-1]
    return distinct([keys[1:][again]]), len(keys) - int(again.sum())


def among(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool [keys]: whether each is in `known`, which is sorted."""
    if not len(known):
        return np.zeros(len(keys), bool)
    place = np.searchsorted(known, keys)
    return known[np.minimum(place, len(known) - 1)] == keys


def _both(found: pa.StructScalar) -> list[float]:
    return [found[name].as_py() for name in ("min", "max")]


def _digest(text: str) -> hashlib.blake2b:
    return hashlib.blake2b(text.encode(), digest_size=_BYTES)


def _hashed(texts: list[str]) -> np.ndarray:
    data = b"".join([_digest(text).digest() for text in texts])
    return np.frombuffer(data, ">u8").astype(np.uint64) if data else np.zeros(0, np.uint64)


def _parsed(ids: pa.Array) -> np.ndarray:
    is_one = pc.fill_null(pc.equal(pc.binary_length(ids), len(_NO_ID)), False)
    plain = pc.if_else(is_one, ids, _NO_ID)  # all of one length, one after the other
    text = np.frombuffer(plain.buffers()[2], np.uint8)[plain.offset * len(_NO_ID) :]
    nibbles = _NIBBLES[text[: len(ids) * len(_NO_ID)]].reshape(len(ids), -1)
    keys = ((nibbles[:, ::2] << 4) | nibbles[:, 1::2]).copy().view(">u8")[:, 0].astype(np.uint64)
    keys[(nibbles == 255).any(axis=1)] = 0
    return keys


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
    """A new array."""
    return np.concatenate([np.zeros(0, np.uint64), *parts])
