"""CopyProfile: what every head's argmax keys held on all rows of one text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ArgumentError, ArgumentTypeError
from ..packages import need
from ..results import HeadScore
from .bins import distance_starts, position_starts

if TYPE_CHECKING:
    import xarray as xr

RATES = ("copy_rate", "echo_rate", "self_rate", "sink_rate")
HEADS = ("layer", "head")
# every count of a profile, and what it is counted over
COUNTS: dict[str, tuple[str, ...]] = {
    "rows": HEADS,
    "self_rows": HEADS,
    "sink_rows": HEADS,
    "copies": (*HEADS, "distance"),
    "echoes": (*HEADS, "distance"),
    "copy_possible": ("layer", "distance"),
    "echo_possible": ("layer", "distance"),
    "copies_by_position": (*HEADS, "position"),
    "echoes_by_position": (*HEADS, "position"),
    "copy_possible_by_position": ("layer", "position"),
    "echo_possible_by_position": ("layer", "position"),
}
_HITS = (
    ("copies", "copy_possible"),
    ("echoes", "echo_possible"),
    ("copies_by_position", "copy_possible_by_position"),
    ("echoes_by_position", "echo_possible_by_position"),
)


@dataclass(frozen=True, eq=False)
class CopyProfile:
    """How often each head's argmax key held the next or the current token, on the rows of one text.

    Let j be the key that a head scores highest at row t, the lowest position on ties. Row t *copies* when ids[j] is the
    next token, ids[t+1], and *echoes* when it is the current one, ids[t], both with j < t; it may do both. A row with
    j = t attends to itself: it counts in `self_rows`, and is neither. Rows are all but the last, which has no next.

    A copy was *possible* at row t where the layer sees ids[t+1] at some j < t, and possible in a distance bin where
    such a j lies: one row may have been able to copy from several bins, and counts once in each. Windowed layers are
    counted over the keys that their rows see. Echoes likewise, with ids[t].

    All counts are int32. D bins of distance t - j: bin b holds 2^b .. 2^(b+1) - 1. P equal parts of the text, at most
    32: row t of R is in part t * P // R.

    rows, self_rows, sink_rows: [n_layers, n_heads]: rows counted; argmax at the row itself; argmax at the first four
        positions of the text. 0 rows where a layer has no attention, or fewer heads.
    copies, echoes: [n_layers, n_heads, D]; copy_possible, echo_possible: [n_layers, D].
    copies_by_position, echoes_by_position: [n_layers, n_heads, P]; ..._possible_by_position: [n_layers, P], possible at
        any distance.
    text_hash: blake2b over the tokens. provenance: how the numbers were made; anything JSON can hold.

    Raises TypeError or ValueError when counts have another type or shape, or contradict each other.
    """

    model_id: str
    n_tokens: int
    n_kv_heads: int
    text_hash: str
    rows: np.ndarray
    self_rows: np.ndarray
    sink_rows: np.ndarray
    copies: np.ndarray
    echoes: np.ndarray
    copy_possible: np.ndarray
    echo_possible: np.ndarray
    copies_by_position: np.ndarray
    echoes_by_position: np.ndarray
    copy_possible_by_position: np.ndarray
    echo_possible_by_position: np.ndarray
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        if self.n_tokens < 2:
            raise ArgumentError(f"n_tokens must be at least 2, got {self.n_tokens}")
        if np.ndim(self.rows) != 2:
            raise ArgumentError(f"rows must have the shape [n_layers, n_heads], got {np.shape(self.rows)}")
        sizes = dict(zip(HEADS, np.shape(self.rows), strict=True))
        sizes |= {"distance": len(self.distance), "position": len(self.position)}
        for name, dims in COUNTS.items():
            array, shape = np.asarray(getattr(self, name)), tuple(sizes[dim] for dim in dims)
            if array.dtype.kind not in "iu":
                raise ArgumentTypeError(f"{name} must hold whole numbers, got {array.dtype}")
            if array.shape != shape:
                raise ArgumentError(f"{name} must have the shape {shape} [{', '.join(dims)}], got {array.shape}")
            if array.size and (array.min() < 0 or array.max() >= self.n_tokens):
                raise ArgumentError(f"{name} must count from 0 to the {self.n_tokens - 1} rows of the text")
            object.__setattr__(self, name, np.ascontiguousarray(array, np.int32))
        for hits, possible in _HITS:
            if (getattr(self, hits) > getattr(self, possible)[:, None]).any():
                raise ArgumentError(f"{hits} must not exceed {possible}")
        if self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ArgumentError(f"n_heads must be a multiple of n_kv_heads, got {self.n_heads} and {self.n_kv_heads}")

    def __repr__(self) -> str:
        size = f"{self.n_layers} layers x {self.n_heads} heads, {self.n_tokens} tokens"
        return f"<CopyProfile of {self.model_id!r}: {size}>"

    @property
    def n_layers(self) -> int:
        """Layers of the model, also those without attention."""
        return int(self.rows.shape[0])

    @property
    def n_heads(self) -> int:
        """Query heads of the layer that has most."""
        return int(self.rows.shape[1])

    @property
    def distance(self) -> np.ndarray:
        """int64 [D], the lowest distance of each bin: 1, 2, 4, ..."""
        return distance_starts(self.n_tokens)

    @property
    def position(self) -> np.ndarray:
        """int64 [P], the first row of each part of the text."""
        return position_starts(self.n_tokens)

    @property
    def copy_rate(self) -> np.ndarray:
        """float32 [n_layers, n_heads]: rows that copy, of those that could; NaN where none could."""
        return self._share(self.copies.sum(-1), self.copy_possible_by_position.sum(-1)[:, None])

    @property
    def echo_rate(self) -> np.ndarray:
        """float32 [n_layers, n_heads]: rows that echo, of those that could; NaN where none could."""
        return self._share(self.echoes.sum(-1), self.echo_possible_by_position.sum(-1)[:, None])

    @property
    def self_rate(self) -> np.ndarray:
        """float32 [n_layers, n_heads]: rows whose argmax is the row itself, of all rows."""
        return self._share(self.self_rows, self.rows)

    @property
    def sink_rate(self) -> np.ndarray:
        """float32 [n_layers, n_heads]: rows whose argmax is one of the first four positions, of all rows."""
        return self._share(self.sink_rows, self.rows)

    @property
    def copy_rate_by_distance(self) -> np.ndarray:
        """float32 [n_layers, n_heads, D]: rows that copy from a bin, of those that could copy from that bin."""
        return self._share(self.copies, self.copy_possible[:, None])

    @property
    def echo_rate_by_distance(self) -> np.ndarray:
        """float32 [n_layers, n_heads, D]: rows that echo a bin, of those that could echo that bin."""
        return self._share(self.echoes, self.echo_possible[:, None])

    @property
    def copy_rate_by_position(self) -> np.ndarray:
        """float32 [n_layers, n_heads, P]: rows of a part of the text that copy, of those that could."""
        return self._share(self.copies_by_position, self.copy_possible_by_position[:, None])

    @property
    def echo_rate_by_position(self) -> np.ndarray:
        """float32 [n_layers, n_heads, P]: rows of a part of the text that echo, of those that could."""
        return self._share(self.echoes_by_position, self.echo_possible_by_position[:, None])

    def rate(self, by: str) -> np.ndarray:
        """One of `RATES` by name. Raises ValueError for another name."""
        if by not in RATES:
            raise ArgumentError(f"by must be one of {', '.join(RATES)}; got {by!r}")
        values: np.ndarray = getattr(self, by)
        return values

    def top(self, k: int = 10, by: str = "copy_rate") -> list[HeadScore]:
        """The k heads with the highest rate, best first; equal ones in (layer, head) order.

        `by`: one of "copy_rate", "echo_rate", "self_rate", "sink_rate". Heads without a rate are left out. `stderr`
        is NaN: neighbouring rows of one text are not independent.
        """
        if k < 1:
            raise ArgumentError(f"k must be at least 1, got {k}")
        rate = self.rate(by)
        order = np.argsort(-rate, axis=None, kind="stable")  # NaN sorts last
        places = [divmod(int(i), self.n_heads) for i in order[:k] if not np.isnan(rate.flat[i])]
        return [HeadScore(*place, float(rate[place]), math.nan) for place in places]

    def to_xarray(self) -> xr.Dataset:
        """Dataset with dims (layer, head, distance, position): every count, and the rates [layer, head].

        `distance` is labelled with the lowest distance of a bin, `position` with the first row of a part:
        `ds.copies / ds.copy_possible` is the copy rate by distance.
        """
        xarray = need("xarray", "to_xarray()")
        data: dict[str, Any] = {name: (dims, getattr(self, name)) for name, dims in COUNTS.items()}
        data |= {name: (HEADS, getattr(self, name)) for name in RATES}
        layer, head = np.arange(self.n_layers, dtype=np.int32), np.arange(self.n_heads, dtype=np.int32)
        coords = {
            "layer": layer,
            "head": head,
            "kv_head": ("head", head // (self.n_heads // self.n_kv_heads)),
            "distance": self.distance.astype(np.int32),
            "position": self.position.astype(np.int32),
        }
        attrs = {name: getattr(self, name) for name in ("model_id", "n_tokens", "text_hash")}
        dataset: xr.Dataset = xarray.Dataset(data, coords, attrs)
        return dataset

    def save(self, path: str | PathLike[str]) -> None:
        """Write a netCDF-4 (HDF5) file, in place of a profile that is there; see SCHEMA.md.

        Raises StoreError (a ValueError) when the file cannot be written, or is something else than a copy profile.
        """
        from .file import write

        write(path, self)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> CopyProfile:
        """Read what `save` wrote. Raises StoreError when the file is missing, damaged, or no copy profile."""
        from .file import read

        return read(path)

    def _share(self, hits: np.ndarray, possible: np.ndarray) -> np.ndarray:
        counted = self.rows.reshape(*self.rows.shape, *[1] * (hits.ndim - 2)) > 0
        return np.where(counted & (possible > 0), hits / np.maximum(possible, 1), np.nan).astype(np.float32)
