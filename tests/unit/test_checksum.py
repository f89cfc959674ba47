"""The checksum of blocks is the CRC-32C of google_crc32c, for any length, at any address."""

import google_crc32c
import numpy as np
import pytest
from foldstream.storage.blocks.checksum import LONG, PART, crc32c

ROUND = 3 * PART
LENGTHS = [0, 1, LONG - 1, LONG, LONG + 1, 8 * ROUND - 1, 8 * ROUND, 8 * ROUND + 9, 50 * ROUND + 12_345]


@pytest.mark.parametrize("length", LENGTHS)
def test_the_checksum_is_that_of_google_crc32c(length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length + 3, np.uint8)
    for shift in range(3):
        part = data[shift : shift + length]
        expected = google_crc32c.value(part.tobytes())
        assert crc32c(part) == expected
        assert crc32c(part.tobytes()) == expected
        assert crc32c(np.frombuffer(part.tobytes(), np.uint8)) == expected, "read-only"


def test_a_changed_bit_is_noticed_in_each_part() -> None:
    data = np.zeros(10 * ROUND, np.uint8)
    before = crc32c(data)
    for place in (0, PART, 2 * PART, 5 * ROUND + PART + 17, len(data) - 1):
        data[place] ^= 16
        assert crc32c(data) != before
        data[place] ^= 16
    assert crc32c(data) == before
