"""A reader for the MATLAB 5 files that hold the masks of the Semantic Boundaries Dataset (SBD).

It supports only what those files contain: numbers in structures and cells, compressed or not. See "MAT-File
Format", The MathWorks.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCTURE = 1, 2


def read_mat_field(path: str | Path, variable: str, field: str) -> np.ndarray:
    """Read a numeric field of a structure, (rows, columns).

    Args:
        path: the file.
        variable: name of the structure, such as `GTinst`.
        field: name of the field, such as `Segmentation`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another format or no such field.
    """
    data = Path(path).read_bytes()
    try:
        if data[126:128] not in (b"IM", b"MI"):
            raise ValueError("not a MATLAB 5 file")
        order = "<" if data[126:128] == b"IM" else ">"
        for kind, body in _elements(data[128:], order):
            if kind == _COMPRESSED:
                kind, body = next(_elements(zlib.decompress(body), order))
            name, value = _matrix(body, order) if kind == _MATRIX else ("", None)
            if name == variable and isinstance(value, dict):
                return np.asarray(value[field])
        raise ValueError(f"there is no structure {variable}")
    except (ValueError, KeyError, IndexError, StopIteration, struct.error, zlib.error) as error:
        raise ValueError(f"{path}: cannot read {variable}.{field} ({error!r})") from error


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Iterate over the type and the body of each element."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:  # a body of up to four bytes is stored inside the eight bytes of the tag
            kind, size, begin, step = kind & 0xFFFF, kind >> 16, at + 4, 8
        else:
            begin = at + 8
            step = 8 + (size if kind == _COMPRESSED else math.ceil(size / 8) * 8)
        yield kind, data[begin : begin + size]
        at += step


def _matrix(data: bytes, order: str) -> tuple[str, object]:
    """Decode the name and the value of an array: numbers, list (cell), dict (structure), or None."""
    if not data:
        return "", None
    elements = _elements(data, order)
    kind = struct.unpack_from(order + "I", next(elements)[1])[0] & 0xFF
    shape = np.frombuffer(next(elements)[1], order + "i4")
    name = next(elements)[1].decode()
    if kind == _CELL:
        return name, [_matrix(body, order)[1] for _, body in elements]
    if kind == _STRUCTURE:
        width = struct.unpack(order + "i", next(elements)[1])[0]
        packed = next(elements)[1]
        fields = [packed[i : i + width].split(b"\0")[0].decode() for i in range(0, len(packed), width)]
        return name, {field: _matrix(next(elements)[1], order)[1] for field in fields}
    stored, body = next(elements, (0, b""))
    if stored not in _NUMBERS:
        return name, None
    return name, np.frombuffer(body, order + _NUMBERS[stored]).reshape(shape, order="F")
