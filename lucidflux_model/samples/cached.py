"""What the frozen parts make of a pair, kept beside the pairs: latents, proxies, SigLIP2 features.

    PAIRS/cache/<digest of the weights>/shards/pairs-000000.tar  {key}.latent.npy, {key}.proxy.png, {key}.semantic.npy
                                        ... .index.parquet

Latents and features are stored as float16 where the frozen parts compute in bfloat16 (whose values it keeps, but for
the smallest), else as float32; a proxy as 8 bits, which moves it by up to half a level. Training takes from the cache
what `data.cached` names, and computes the rest.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lucidflux_data.codecs import version
from lucidflux_data.codecs.encoding import encode as to_bytes
from lucidflux_data.errors import ConfigError
from lucidflux_data.images import decode
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage.folder import Folder
from lucidflux_model.network.encode import Tensors, encode
from lucidflux_model.samples.reading import Unreadable, read_range
from lucidflux_model.samples.stored import ShardPairs

EXTENSIONS = {"latent": "latent.npy", "proxy": "proxy.png", "semantic": "semantic.npy"}
PLACE = "cache"
DECODER = "decoder"  # in the metadata of an index: the version of the decoders that gave the pixels


def cache_folder(pairs: Folder, weights: str) -> Folder:
    """`weights`: a digest of the frozen parts."""
    return Folder(f"{pairs.url}/{PLACE}/{weights[:16]}")


def encoded(parts: Any, hq: np.ndarray, lq: np.ndarray, kinds: Sequence[str]) -> dict[str, bytes]:
    """The members of a pair, by extension. `parts` has vae, proxy and image_encoder.

    Features are of the stored, 8-bit proxy.
    """
    batch: Tensors = {"hq": _batch(hq), "lq": _batch(lq)}
    proxy = ((encode(parts, batch)["proxy"] + 1) / 2 * 255).round().to(torch.uint8)
    found = encode(parts, {**batch, "proxy": proxy})
    dtype = np.float16 if parts.vae.dtype == torch.bfloat16 else np.float32
    pixels = proxy[0].permute(1, 2, 0).cpu().numpy()
    members = {
        "latent": lambda: _npy(found["latent"], dtype),
        "proxy": lambda: to_bytes(pixels),
        "semantic": lambda: _npy(found["features"], dtype),
    }
    return {EXTENSIONS[kind]: members[kind]() for kind in EXTENSIONS if kind in kinds}


def samples(
    parts: Any, source: ShardPairs, indices: Iterable[int], kinds: Sequence[str]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members of the pairs of a shard, in key order; without those that cannot be read."""
    for index in indices:
        try:
            hq, lq = source.read(index, 0)
        except Unreadable:
            continue
        yield source.key(index, 0), encoded(parts, hq, lq, kinds)


class Places(NamedTuple):
    """Where the members of one kind lie, a number for each pair of the source, uint32; size 0: not cached."""

    block: np.ndarray  # of the tar, where the data begin: a member of a tar begins at one
    size: np.ndarray  # bytes
    crc32: np.ndarray


class Sidecars:
    """`sidecars(index)` -> tensors of the pair by name, as the loader puts them into a batch. Raises Unreadable, or
    StorageError where the cache is away. 12 bytes a pair and kind."""

    def __init__(self, folder: Folder, source: ShardPairs, kinds: Sequence[str]) -> None:
        """ConfigError where the cache lacks a shard, or one of `kinds`."""
        self._source = source
        self._tars = [f"{folder.url}/shards/{_title(url)}.tar" for url in source.shards]
        hint = f"`lucidflux cache` with kinds {','.join(kinds)} makes it, of the same pairs and --weights"
        self._places = {kind: Places(*(np.zeros(len(source), np.uint32) for _ in range(3))) for kind in kinds}
        for number, url in enumerate(source.shards):
            index = f"shards/{shards.index_name(_title(url))}"
            if not folder.exists(index):
                raise ConfigError(f"{folder} has no cache of {_title(url)}: {hint}")
            metadata = shards.read_index_metadata(folder, index)
            if int(metadata.get(DECODER, version.FIRST)) < source.decoder:
                raise ConfigError(f"{folder} was made by decoder {metadata.get(DECODER, version.FIRST)}: {hint}")
            rows = folder.read_table(index)
            here, keys = source.keys_of(number)
            for kind, places in self._places.items():
                _fill(places, here, rows, kind, keys)
                if rows.num_rows and not places.size[here].any():
                    raise ConfigError(f"{folder} was cached without some of {', '.join(kinds)}: {hint}")

    def __call__(self, index: int) -> dict[str, Tensor]:
        key, found = self._source.key(index, 0), {}
        for kind, place in self._places.items():
            offset, size = int(place.block[index]) * shards.BLOCK, int(place.size[index])
            if not size:
                raise Unreadable(f"{key}: its {kind} is not cached")
            data = read_range(self._tars[self._source.shard_of[index]], offset, offset + size)
            if zlib.crc32(data) != int(place.crc32[index]):
                raise Unreadable(f"{key}: its cached {kind} is damaged")
            array = decode(data).transpose(2, 0, 1) if kind == "proxy" else np.load(io.BytesIO(data))
            found[kind] = torch.from_numpy(np.ascontiguousarray(array))
        return found


def _title(url: str) -> str:
    return url.rpartition("/")[2].removesuffix(".tar")


def _fill(places: Places, here: slice, rows: pa.Table, kind: str, keys: pa.Array) -> None:
    """Takes the members of a kind out of an index, for the pairs `here`, whose keys are `keys`."""
    members = rows.filter(pc.ends_with(rows["member"], EXTENSIONS[kind]))
    where = pc.index_in(keys, members["key"].combine_chunks())
    offset, size, crc32 = (members[name].combine_chunks().take(where) for name in ("offset", "size", "crc32"))
    places.block[here] = offset.fill_null(0).to_numpy() // shards.BLOCK
    places.size[here] = size.fill_null(0).to_numpy()
    places.crc32[here] = crc32.fill_null(0).to_numpy()


def _npy(tensor: Tensor, dtype: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, tensor[0].float().cpu().numpy().astype(dtype))
    return buffer.getvalue()


def _batch(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
