"""Protocol buffers: the fields of one message, read and written."""

import struct

ZERO = b"\0\0\0\0"
_MOST_BITS = 64


def field(number, value):
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    value = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value):
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    return bytes(data)


def fields_of(data):
    """(number, value) of each field: an integer, or the bytes of anything else."""
    if not isinstance(data, bytes):
        raise ValueError("a number stands where a part of the file should")
    found, position, end = [], 0, len(data)
    try:
        while position < end:
            key, position = _read_varint(data, position)
            kind = key & 7
            if kind == 0:
                value, position = _read_varint(data, position)
            else:
                length, position = _read_length(data, position, kind)
                value = data[position : position + length]
                position += length
            found.append((key >> 3, value))
    except IndexError:
        position = end + 1
    if position > end:
        raise ValueError("its end is missing")
    return found


def _read_length(data, position, kind):
    if kind == 2:
        return _read_varint(data, position)
    if kind == 5:
        return 4, position
    if kind == 1:
        return 8, position
    raise ValueError(f"byte {position - 1} begins no field of a SentencePiece model")


def _read_varint(data, position):
    value = data[position]
    position += 1
    if value < 128:
        return value, position
    value, shift = value & 127, 7
    while (byte := data[position]) > 127:
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if shift > _MOST_BITS:
            raise ValueError(f"the number before byte {position} has more than {_MOST_BITS} bits")
    return value | byte << shift, position + 1
