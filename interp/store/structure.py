"""Whether an HDF5 file can be read safely: its structure, looked at with the low-level API before any of it is used.

`examine` runs in a process of its own (gate.py), because damaged metadata can crash the HDF5 library or let it run for
ever. What it lets through holds hard links only, data that lies in the file itself, numbers and texts, sizes that
belong to the file, and dimension scales that are ones: SCHEMA.md, "What is not read". No other file is opened: external
and virtual storage is told from how an object was created.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5o, h5p, h5r, h5s, h5t, h5z

from ...printable import printable
from .schema import StoreError

# A file may declare this much, in memory, and so many times its own size: gzip makes zeros a thousand times smaller.
FREE = 2**28  # bytes
TIMES = 256
MOST_OBJECTS = 20_000
MOST_ATTRIBUTES = 1_000  # of one object
LONGEST_TEXT = 2**20  # letters of a text, bytes of an attribute; the provenance of a copy profile is one
DEEPEST = 8
LONGEST_NAME = 255  # characters

FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)
_EXTERNAL_FILES = 1 << 7  # the message "external file list" in an object's header
_BLOCK = 4096  # texts that are read at a time

Axes = tuple[int, ...]
Use = Literal["structure", "values", "xarray", "root"]
"""What a file is examined for: adding to it or reading its small variables; reading every value with h5py; the same
with xarray, which also goes from a dimension scale to all that refer to it; with xarray, the root alone."""


@dataclass
class _Found:
    """What the walk has come by. Addresses are those of objects in the file."""

    size: int
    use: Use
    pointer: int  # bytes in the file of a text that lies apart: its length, its place
    texts: list[tuple[str, h5d.DatasetID]] = field(default_factory=list)
    scales: dict[str, int] = field(default_factory=dict)  # path -> length
    widths: dict[str, int] = field(default_factory=dict)  # path -> bytes of a value in memory
    lists: list[tuple[str, Axes, h5a.AttrID]] = field(default_factory=list)  # DIMENSION_LIST of a path
    users: list[tuple[str, h5a.AttrID]] = field(default_factory=list)  # REFERENCE_LIST of a path
    seen: dict[int, str] = field(default_factory=dict)  # address -> path
    declared: int = 0

    def declare(self, path: str, size: int) -> None:
        """Count memory that reading takes; refuse what no honest file of this size declares."""
        self.declared += size
        most = FREE + TIMES * self.size
        if self.declared > most:
            told = f"declares {_bytes(self.declared)} in a file of {_bytes(self.size)}, of which at most {_bytes(most)}"
            raise StoreError(f"{path} {told} are read")


def examine(path: str, shown: str, use: Use = "values") -> tuple[str | None, bool]:
    """Why a file is not to be read, in one line, or None for one that can be; and whether the library is as before.

    shown: what the line calls the file.
    """
    sound = True
    try:
        with open_unexamined(path, shown) as file:
            reason = _reason(file, os.path.getsize(path), use)
    except StoreError as error:
        return str(error), sound
    except Exception as error:  # whatever the library makes of damage
        sound = False
        told = one_line(error) or type(error).__name__
        reason = (
            "it takes too much memory" if isinstance(error, MemoryError) else f"it is damaged or incomplete ({told})"
        )
    return reason and f"{shown} is not read: {reason}; restore the file, or make it again", sound


def _reason(file: h5py.File, size: int, use: Use) -> str | None:
    try:
        _examine(file, size, use)
    except StoreError as error:
        return str(error)
    return None


def open_unexamined(path: str | os.PathLike[str], shown: str) -> h5py.File:
    """Open an HDF5 file for reading, also where its file system has no locks.

    A file of ours is only ever replaced as a whole, so a reader needs none; but HDF5's own tell that another program
    writes into it. Raises StoreError.
    """
    try:
        return h5py.File(path, "r")
    except BlockingIOError as error:
        raise StoreError(f"another program has {shown} open for writing; close it there, then try again") from error
    except OSError as error:
        try:
            return h5py.File(path, "r", locking=False)
        except OSError as again:
            if "unable to lock" not in str(again):
                told = f"cannot open {shown}: {one_line(error)}; restore it or write to another file"
                raise StoreError(told) from error
            why = f"{one_line(again)}, and the variable HDF5_USE_FILE_LOCKING insists on them"
            raise StoreError(f"cannot lock {shown}: {why}; set HDF5_USE_FILE_LOCKING=FALSE") from again


def _examine(file: h5py.File, size: int, use: Use) -> None:
    created = file.id.get_create_plist()
    _, persist, _ = created.get_file_space_strategy()
    if persist:  # the library would follow its lists of free space while it writes
        raise StoreError("it keeps lists of free space, which no file of the schema does")
    found = _Found(size, use, 8 + created.get_sizes()[0])
    _attributes(file.id, "the file", (), found)
    root = h5g.open(file.id, b"/")
    found.seen[h5o.get_info(root).addr] = "/"
    _group(root, "", 0, found)
    _dimension_lists(file, found)
    if use in ("xarray", "root"):
        _users_of_scales(file, found)
    for path, dataset in found.texts:
        _texts(path, dataset, found)


def _group(group: h5g.GroupID, path: str, depth: int, found: _Found) -> None:
    if depth > DEEPEST:
        raise StoreError(f"groups lie within each other more than {DEEPEST} deep")
    names: list[bytes] = []
    group.links.iterate(names.append)
    for raw in names:
        name = _name(raw, "a variable or group")
        inner = f"{path}/{name}" if path else name
        if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
            raise StoreError(f"{inner} is a link to another place, and only what is in the file itself is read")
        info = h5o.get_info(group, raw)
        if info.addr in found.seen:
            raise StoreError(f"{inner} and {found.seen[info.addr]} are one object under two names")
        found.seen[info.addr] = inner
        if len(found.seen) > MOST_OBJECTS:
            raise StoreError(f"it holds more than {MOST_OBJECTS:,} variables and groups")
        if info.hdr.mesg.present & _EXTERNAL_FILES:
            raise StoreError(f"{inner} has its values in another file, and only what is in the file itself is read")
        if info.num_attrs > MOST_ATTRIBUTES:
            raise StoreError(f"{inner} has more than {MOST_ATTRIBUTES:,} attributes")
        item = h5o.open(group, raw)
        if isinstance(item, h5g.GroupID):
            _attributes(item, inner, (), found)
            if found.use != "root":
                _group(item, inner, depth + 1, found)
        elif isinstance(item, h5d.DatasetID):
            shape = _dataset(item, inner, found)
            if _attributes(item, inner, shape, found):
                found.scales[inner] = shape[0]


def _dataset(dataset: h5d.DatasetID, path: str, found: _Found) -> Axes:
    created = dataset.get_create_plist()
    layout = _layout(created, path)
    for number in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(number)
        if code not in FILTERS:
            told = _shown(name.decode(errors="replace")) or code
            raise StoreError(f"{path} is compressed with {told}, which other readers need a plugin for; use gzip")
    space = dataset.get_space()
    if space.get_simple_extent_type() == h5s.NULL:
        raise StoreError(f"{path} has no value at all")
    shape: Axes = space.get_simple_extent_dims()
    kind = dataset.get_type()
    if not _is_plain(kind):
        raise StoreError(f"{path} is of references, sequences or another type that the schema does not have")
    text = _is_text(kind)
    width = 64 if text else kind.get_size()  # of a str, without its letters
    found.widths[path] = width
    found.declare(path, prod(shape) * width)
    if layout == h5d.CHUNKED:
        size = prod(created.get_chunk()) * (found.pointer if text else kind.get_size())
        found.declare(path, size)
        # Dear, so left out where values are only handed to who asked, and where an append does not touch them.
        untouched = created.get_chunk()[0] == 1 and len(shape) == 4
        whole = found.use != "root" and not (found.use == "structure" and untouched)
        _chunks(dataset, created, size, path, found, whole)
    elif layout == h5d.CONTIGUOUS and (dataset.get_offset() or 0) + dataset.get_storage_size() > found.size:
        raise StoreError(f"{path} goes on beyond the end of the file")
    if text and all(shape):
        found.texts.append((path, dataset))
    return shape


def _layout(created: h5p.PropDCID, path: str) -> int:
    """How its values are stored; StoreError where that is not in the file itself."""
    layout: int = created.get_layout()
    if layout not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED) or created.get_external_count():
        raise StoreError(f"{path} has its values in another file, and only what is in the file itself is read")
    return layout


def _chunks(dataset: h5d.DatasetID, created: h5p.PropDCID, size: int, path: str, found: _Found, whole: bool) -> None:
    """Every chunk lies in the file and, where it is looked at whole, gives `size` bytes.

    Where one gives less, the HDF5 library hands out whatever its memory held before.
    """
    chunks: list[h5d.StoreInfo] = []
    dataset.chunk_iter(chunks.append)
    filters = [created.get_filter(number)[0] for number in range(created.get_nfilters())]
    for chunk in chunks:
        if chunk.byte_offset is None or chunk.byte_offset + chunk.size > found.size:
            raise StoreError(f"{path} goes on beyond the end of the file")
        applied = [code for number, code in enumerate(filters) if not chunk.filter_mask >> number & 1]
        if whole or h5z.FILTER_DEFLATE not in applied:
            _check_length(dataset, chunk, applied, size, path)


def _check_length(dataset: h5d.DatasetID, chunk: h5d.StoreInfo, applied: list[int], size: int, path: str) -> None:
    length, content = chunk.size, None
    for code in reversed(applied):
        if code == h5z.FILTER_FLETCHER32:
            length -= 4
            content = content and content[:-4]
        elif code == h5z.FILTER_DEFLATE:
            if content is None:
                content = dataset.read_direct_chunk(chunk.chunk_offset)[1][:length]
            try:
                content = zlib.decompressobj().decompress(content, size + 5)
            except zlib.error:
                return  # which the library notices as well
            length = len(content)
    if length != size:
        raise StoreError(f"{path} has a part that gives other than the {size:,} bytes that it should")


def _is_plain(kind: h5t.TypeID, depth: int = 4) -> bool:
    """Whether values of this type are numbers, texts and bytes, which point nowhere. Raises for unknown numbers."""
    number = kind.get_class()
    if not depth or number in (h5t.REFERENCE, h5t.VLEN, h5t.TIME, h5t.NO_CLASS):
        return False
    if number == h5t.COMPOUND:
        return all(_is_plain(kind.get_member_type(i), depth - 1) for i in range(kind.get_nmembers()))
    if number == h5t.ARRAY:
        return _is_plain(kind.get_super(), depth - 1)
    if _is_text(kind):
        return depth == 4  # within other types it is a pointer
    if number != h5t.STRING:
        kind.dtype  # noqa: B018 - raises for what numpy does not know
    return True


def _is_text(kind: h5t.TypeID) -> bool:
    """Whether it is of texts that lie apart, each as long as it is."""
    return isinstance(kind, h5t.TypeStringID) and bool(kind.is_variable_str())


def _attributes(item: h5g.GroupID | h5d.DatasetID, path: str, shape: Axes, found: _Found) -> bool:
    """Check them all; whether they make a dimension scale of the item. shape: of the item."""
    is_scale = False
    names: list[bytes] = []
    h5a.iterate(item, names.append)
    for raw in names:
        name = _name(raw, f"an attribute of {path}")
        where = f"{name} of {path}"
        attribute = h5a.open(item, raw)
        kind, size = attribute.get_type(), h5a.get_info(item, raw).data_size
        if size > min(LONGEST_TEXT, found.size):
            raise StoreError(f"the attribute {where} declares {_bytes(size)}; at most {_bytes(LONGEST_TEXT)} are read")
        if name == "DIMENSION_LIST":
            if not (_is_references(kind) and attribute.shape == (len(shape),) and shape):
                raise StoreError(f"the attribute {where} is no list of dimension scales")
            found.lists.append((path, shape, attribute))
        elif name == "REFERENCE_LIST":
            if not (_is_back_references(kind) and len(attribute.shape) == 1):
                raise StoreError(f"the attribute {where} is no list of the users of a dimension scale")
            found.users.append((path, attribute))
        elif name in ("CLASS", "NAME"):
            if kind.get_class() != h5t.STRING or _is_text(kind) or prod(attribute.shape) != 1:
                raise StoreError(f"the attribute {where} is no text of a fixed length, as HDF5 has it there")
            is_scale |= name == "CLASS" and _text(attribute) == "DIMENSION_SCALE"
        elif not _is_plain(kind):
            raise StoreError(f"the attribute {where} is of references, sequences or another type that none of ours has")
        elif size and _is_text(kind):
            _text(attribute)  # whether it can be read
    if is_scale and len(shape) != 1:
        raise StoreError(f"{path} is a dimension scale of {len(shape)} axes, and a scale has one")
    return is_scale


def _is_references(kind: h5t.TypeID) -> bool:
    return kind.get_class() == h5t.VLEN and kind.get_super().equal(h5t.STD_REF_OBJ)


def _is_back_references(kind: h5t.TypeID) -> bool:
    """dataset: reference, dimension: integer."""
    if kind.get_class() != h5t.COMPOUND or kind.get_nmembers() != 2:
        return False
    first, second = (kind.get_member_type(i) for i in (0, 1))
    named = (kind.get_member_name(0), kind.get_member_name(1)) == (b"dataset", b"dimension")
    return named and bool(first.equal(h5t.STD_REF_OBJ)) and second.get_class() == h5t.INTEGER


def _text(attribute: h5a.AttrID) -> str:
    values = np.empty(attribute.shape, attribute.dtype)
    attribute.read(values)
    value = values.ravel()[0] if values.size else b""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _dimension_lists(file: h5py.File, found: _Found) -> None:
    """Every scale on every axis is one of the file's scales, and none has scales itself."""
    scales = {f"/{path}".encode(): length for path, length in found.scales.items()}
    for path, shape, attribute in found.lists:
        if path in found.scales:
            raise StoreError(f"{path} is a dimension scale with dimension scales of its own")
        values = np.empty(attribute.shape, attribute.dtype)
        attribute.read(values)
        padded: list[int] = list(shape)  # xarray fills up variables that are shorter than their scales
        for axis in range(len(shape)):
            for reference in np.atleast_1d(values[axis]) if values[axis] is not None else ():
                name = h5r.get_name(reference, file.id) if reference else None
                if name not in scales:
                    raise StoreError(f"axis {axis} of {path} has a dimension scale that is none")
                padded[axis] = max(padded[axis], scales[name])
        found.declare(path, (prod(padded) - prod(shape)) * found.widths[path])


def _users_of_scales(file: h5py.File, found: _Found) -> None:
    """What a scale says it is used by is there: of variables in groups that were not walked through, the storage."""
    for path, attribute in found.users:
        values = np.empty(attribute.shape, attribute.dtype)
        attribute.read(values)
        for reference in values["dataset"]:
            user = h5r.dereference(reference, file.id) if reference else None
            if not isinstance(user, h5d.DatasetID):
                raise StoreError(f"the dimension scale {path} is used by a variable that is not there")
            if h5o.get_info(user).addr not in found.seen:
                _layout(user.get_create_plist(), f"a variable with the dimension scale {path}")


def _texts(path: str, dataset: h5d.DatasetID, found: _Found) -> None:
    """Read all texts, some at a time: they lie apart, and one may be long, or be there many times."""
    shape, dtype = dataset.shape, dataset.dtype
    longest, total = 0, 0
    for first in range(0, shape[0] if shape else 1, _BLOCK):
        if prod(shape) <= _BLOCK:
            values, part = np.empty(shape, dtype), h5s.ALL
        else:
            values = np.empty((min(_BLOCK, shape[0] - first), *shape[1:]), dtype)
            part = h5s.create_simple(shape)
            part.select_hyperslab((first, *[0] * (len(shape) - 1)), values.shape)
        here = h5s.ALL if part is h5s.ALL else h5s.create_simple(values.shape)
        dataset.read(here, part, values)
        try:
            lengths = [len(text.decode()) for text in values.flat]
        except UnicodeDecodeError:
            raise StoreError(f"{path} holds a text that is not UTF-8") from None
        longest, total = max(longest, *lengths), total + sum(lengths)
        if longest > LONGEST_TEXT:
            raise StoreError(f"{path} holds a text of {longest:,} letters; at most {LONGEST_TEXT:,} are read")
        if total > FREE + TIMES * found.size:
            break
    found.declare(path, max(total, 4 * longest * prod(shape)))  # as numpy holds them: all as long as the longest


def _name(raw: bytes, what: str) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode(errors="surrogateescape")
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        told = f"'{_shown(name)}', which is not plain text of 1 to {LONGEST_NAME} letters"
        raise StoreError(f"{what} has the name {told}")
    return name


def _shown(name: str) -> str:
    """A name for a message: at most 60 letters, and nothing that a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name[:60])


def _bytes(count: int) -> str:
    for unit, size in (("EB", 1e18), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def one_line(error: BaseException) -> str:
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if inside := re.search(r"\berrno = (\d+)", words):  # HDF5 wraps the reason in addresses and sizes
        words = os.strerror(int(inside[1]))
    return printable(" ".join(words.strip("'\"").split()), 400)
