"""What is said of damaged PNG files is written for those who look after them."""

import re
import zlib

import pytest

import images as pictures


def reason(rd, file):
    with pytest.raises(ValueError, match="1 of 1") as error:
        rd.load_images(file, 8)
    return str(error.value).partition(f"{file}: ")[2]


def damaged(whole, place, mended):
    """`whole` with one byte changed, and with the checksum of its pixels' chunk made right again, or not."""
    changed = bytearray(whole)
    changed[place] ^= 0xFF
    start = whole.index(b"IDAT")
    end = start + 4 + int.from_bytes(whole[start - 4 : start], "big")
    if mended:
        changed[end : end + 4] = zlib.crc32(changed[start:end]).to_bytes(4, "big")
    return bytes(changed)


@pytest.fixture
def png(tmp_path):
    pictures.colour(24, 18).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_wrong_checksum_is_called_that(rd, png):
    whole = png.read_bytes()
    png.write_bytes(damaged(whole, whole.index(b"IDAT") + 90, mended=False))
    assert reason(rd, png) == "the file is damaged (the checksum of its IDAT chunk is wrong)"


def test_pixels_that_do_not_unpack_are_damage_without_the_words_of_the_library(rd, png):
    whole = png.read_bytes()
    start, refused = whole.index(b"IDAT") + 4, 0
    for place in range(start, start + 200, 9):
        png.write_bytes(damaged(whole, place, mended=True))
        try:
            rd.load_images(png, 8)
        except ValueError as error:
            refused += 1
            words = str(error).partition(f"{png}: ")[2]
            assert words in ("the file is damaged", "the file is truncated"), words
            assert not re.search(r"deflate|Corrupt|format error|CRC|ChunkType", str(error))
    assert refused > 10


@pytest.mark.parametrize("length", [8, 20, 33, 60, -30, -12, -5])
def test_a_cut_file_is_truncated_wherever_it_was_cut(rd, png, length):
    png.write_bytes(png.read_bytes()[:length])
    assert reason(rd, png) == "the file is truncated"
