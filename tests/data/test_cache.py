"""The decoded set on disk: the same as the files, whatever becomes of either."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tools import child_environment


def test_the_cache_gives_the_same_and_follows_changes(rd, folder, tmp_path):
    cache = tmp_path / "set.cache"
    first = rd.load_images(folder, 8, cache=cache)
    written = cache.stat().st_mtime_ns
    assert torch.equal(rd.load_images(folder, 8, cache=cache), first)
    assert cache.stat().st_mtime_ns == written, "the second start only reads"

    Image.fromarray(np.full((70, 60), 255, np.uint8)).save(folder / "C002" / "0.png")
    changed = rd.load_images(folder, 8, cache=cache)
    assert changed[0].eq(1).all() and torch.equal(changed[1:], first[1:])
    (folder / "C009" / "3.png").unlink()
    assert len(rd.load_images(folder, 8, cache=cache)) == 7
    assert rd.load_images(folder, 16, cache=cache).shape[-1] == 16
    assert rd.load_images(folder, 16, cache=cache, dtype=torch.uint8).dtype == torch.uint8


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "flipped"])
def test_a_damaged_cache_is_rebuilt(rd, folder, tmp_path, damage):
    cache = tmp_path / "set.cache"
    first = rd.load_images(folder, 8, cache=cache)
    whole = bytearray(cache.read_bytes())
    whole[-50] ^= 4
    cut = whole[: len(whole) // 2]
    cache.write_bytes({"empty": b"", "garbage": b"garbage" * 999, "cut": cut, "flipped": whole}[damage])
    assert torch.equal(rd.load_images(folder, 8, cache=cache), first)
    assert torch.equal(rd.load_images(folder, 8, cache=cache), first)


def test_caches_have_their_own_names_in_a_folder(rd, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "home"))
    first = rd.load_images(folder, 8, cache=True)
    rd.load_images(folder, 16, cache=True)
    caches = list((tmp_path / "home").rglob("*.cache"))
    assert len(caches) == 2
    assert torch.equal(rd.load_images(folder, 8, cache=True), first)


def test_a_cache_that_cannot_be_written_is_a_warning_and_an_image_is_never_overwritten(rd, folder, tmp_path):
    with pytest.warns(RuntimeWarning, match="could not be written"):
        images = rd.load_images(folder, 8, cache=tmp_path / "no" / "such" / "folder" / "x.cache")
    assert len(images) == 8
    victim = folder / "C002" / "0.png"
    before = victim.read_bytes()
    with pytest.raises(ValueError, match="cache"):
        rd.load_images(folder, cache=victim)
    assert victim.read_bytes() == before


def test_a_file_of_something_else_is_never_overwritten_by_a_cache(rd, folder, tmp_path):
    notes = tmp_path / "thesis.txt"
    notes.write_text("four years of work")
    with pytest.raises(ValueError, match=r"thesis\.txt holds something else"):
        rd.load_images(folder, 8, cache=notes)
    assert notes.read_text() == "four years of work"
    # A cache of that name is one's own, also when its first byte is damaged.
    own = tmp_path / "set.bin"
    first = rd.load_images(folder, 8, cache=own)
    own.write_bytes(b"R" + own.read_bytes()[1:])
    assert torch.equal(rd.load_images(folder, 8, cache=own), first)
    assert own.read_bytes()[:1] == b"r"


def test_two_processes_may_build_one_cache_at_once(rd, folder, tmp_path):
    code = (
        "import sys, rust_diffusion as rd\n"
        "print(rd.load_images(sys.argv[1], 8, cache=sys.argv[2]).sum().item())"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "set.cache")]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=child_environment())
        for _ in range(3)
    ]
    sums = {run.communicate(timeout=120)[0] for run in runs}
    assert sums == {f"{rd.load_images(folder, 8).sum().item()}\n"}
    assert torch.equal(rd.load_images(folder, 8, cache=tmp_path / "set.cache"), rd.load_images(folder, 8))
    assert not list(tmp_path.glob("*.tmp"))


def rewritten(cache, key, fill=0):
    """The same cache with another key and other pixels, its lengths and its checksum right again."""
    length = int.from_bytes(cache[16:24], "little")
    about, values = cache[24 + length : 24 + length + 16], cache[24 + length + 16 : -4]
    body = cache[:16] + len(key).to_bytes(8, "little") + key + about + bytes([fill]) * len(values)
    return body + zlib.crc32(body).to_bytes(4, "little")


def key_of(cache):
    return cache[24 : 24 + int.from_bytes(cache[16:24], "little")]


def test_a_cache_of_another_version_is_rebuilt(rd, folder, tmp_path):
    """Its decoders may have given other pixels: those of 0.1.0, whose key names no version, and of any other."""
    cache = tmp_path / "set.cache"
    first = rd.load_images(folder, 8, cache=cache)
    written = cache.read_bytes()
    key = key_of(written)
    options = key[key.index(b"float32") :]
    assert key == f"{rd.__version__} ".encode() + key.split(b" ", 1)[1], "this version stands in the key"
    for other in (options, b"0.0.9 1 " + options, b"99.0.0" + key[key.index(b" ") :]):
        cache.write_bytes(rewritten(written, other))
        assert torch.equal(rd.load_images(folder, 8, cache=cache), first)
        assert cache.read_bytes() == written
    cache.write_bytes(rewritten(written, key))
    assert rd.load_images(folder, 8, cache=cache).eq(-1).all(), "with the right key it would have been taken"


def test_another_version_takes_the_place_of_a_cache_in_a_folder(rd, folder, tmp_path):
    (tmp_path / "caches").mkdir()
    first = rd.load_images(folder, 8, cache=tmp_path / "caches")
    (cache,) = (tmp_path / "caches").iterdir()
    written = cache.read_bytes()
    cache.write_bytes(rewritten(written, key_of(written)[6:]))
    assert torch.equal(rd.load_images(folder, 8, cache=tmp_path / "caches"), first)
    assert list((tmp_path / "caches").iterdir()) == [cache]


def test_the_way_of_fitting_is_part_of_the_cache(rd, folder, tmp_path):
    cache = tmp_path / "set.cache"
    stretched = rd.load_images(folder, (8, 16), cache=cache)
    padded = rd.load_images(folder, (8, 16), cache=cache, fit="pad")
    assert not torch.equal(padded, stretched)
    assert torch.equal(padded, rd.load_images(folder, (8, 16), fit="pad"))
