"""Protocol buffers against encodings of their specification, and bytes that are none."""

import struct

import pytest

from keras_t5gemma2.vocabulary.protocol_buffer import field, fields_of

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("number", "value", "data"),
    [
        (1, 150, "08 96 01"),
        (2, "testing", "12 07 74 65 73 74 69 6e 67"),
        (3, bytes.fromhex("08 96 01"), "1a 03 08 96 01"),
        (2, 1.0, "15 00 00 80 3f"),
        (1, 0, "08 00"),
        (1, 127, "08 7f"),
        (1, 128, "08 80 01"),
        (1, 2**64 - 1, "08 ff ff ff ff ff ff ff ff ff 01"),
        (16, True, "80 01 01"),
        (4, "", "22 00"),
        (4, "é", "22 02 c3 a9"),
    ],
)
def test_fields_are_those_of_the_specification(number, value, data):
    data = bytes.fromhex(data)
    assert field(number, value) == data
    stored = value.encode() if isinstance(value, str) else value
    stored = struct.pack("<f", value) if isinstance(value, float) else stored
    assert fields_of(data) == [(number, stored)]


def test_fields_come_in_the_order_of_the_file():
    data = field(3, "x" * 300) + field(1, 5) + field(3, b"\0") + bytes.fromhex("21") + bytes(8)
    found = fields_of(data)
    assert found == [(3, b"x" * 300), (1, 5), (3, b"\0"), (4, bytes(8))]
    assert fields_of(b"") == []


def test_a_message_that_is_cut_off_anywhere_but_between_fields():
    parts = [field(1, 300), field(2, "abc"), field(3, 0.5), field(300, 1)]
    data = b"".join(parts)
    ends = {sum(map(len, parts[:count])) for count in range(len(parts) + 1)}
    for end in range(len(data) + 1):
        if end in ends:
            assert b"".join(parts[: len(fields_of(data[:end]))]) == data[:end]
        else:
            with pytest.raises(ValueError, match="its end is missing"):
                fields_of(data[:end])


def test_bytes_that_are_no_message():
    with pytest.raises(ValueError, match="a number stands where a part of the file should"):
        fields_of(3)
    for kind in (3, 4, 6, 7):
        with pytest.raises(ValueError, match="byte 2 begins no field"):
            fields_of(field(1, 5) + bytes([1 << 3 | kind]))
    with pytest.raises(ValueError, match="has more than 64 bits"):
        fields_of(b"\x08" + b"\xff" * 10 + b"\x01")
    with pytest.raises(ValueError, match="its end is missing"):
        fields_of(bytes.fromhex("0a ff ff ff ff 7f") + b"short")
