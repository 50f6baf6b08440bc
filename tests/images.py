"""Image files of every kind, and what Pillow and torchvision make of them."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image


def reference(path, size, channels=1):
    """Grey levels (channels, size, size) as the course's pipeline has them."""
    transforms = pytest.importorskip("torchvision.transforms", reason="the course reads with torchvision")
    image = Image.open(path).convert("L" if channels == 1 else "RGB")
    resized = np.asarray(transforms.Resize((size, size), antialias=True)(image))
    return torch.from_numpy(resized.reshape(size, size, channels).copy()).permute(2, 0, 1)


def picture(height, width, channels, seed=0):
    """Smooth structure with some noise, uint8 (height, width, channels)."""
    rng = np.random.default_rng(seed)
    planes = []
    for _ in range(channels):
        coarse = Image.fromarray(rng.normal(size=(height // 4 + 2, width // 4 + 2)).astype(np.float32))
        planes.append(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)))
    image = np.stack(planes, -1) * 60 + 128 + rng.normal(size=(height, width, channels)) * 6
    return np.clip(image, 0, 255).astype(np.uint8)


def grey(height, width):
    return Image.fromarray(picture(height, width, 1)[..., 0])


def colour(height, width):
    return Image.fromarray(picture(height, width, 3))


def with_alpha(height, width):
    return Image.fromarray(picture(height, width, 4))


def grey_with_alpha(height, width):
    return Image.merge("LA", with_alpha(height, width).split()[2:])


def save_interlaced(path, image):
    """Adam7 by hand: Pillow reads it and does not write it."""
    import zlib

    pixels = np.asarray(image)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    raw = b""
    for top, left, down, right in (
        *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
        *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
    ):
        part = pixels[top::down, left::right]
        if part.size:
            raw += b"".join(b"\0" + row.tobytes() for row in part)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, kind, 0, 0, 1)

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


# name: (suffix, save(path, height, width))
KINDS = {
    "grey": (".png", lambda path, *shape: grey(*shape).save(path)),
    "grey-alpha": (".png", lambda path, *shape: grey_with_alpha(*shape).save(path)),
    "rgb": (".png", lambda path, *shape: colour(*shape).save(path)),
    "rgba": (".png", lambda path, *shape: with_alpha(*shape).save(path)),
    "palette": (".png", lambda path, *shape: colour(*shape).quantize(200).save(path)),
    "palette-4-bit": (".png", lambda path, *shape: colour(*shape).quantize(9).save(path, bits=4)),
    "palette-2-bit": (".png", lambda path, *shape: colour(*shape).quantize(4).save(path, bits=2)),
    "1-bit": (".png", lambda path, *shape: grey(*shape).convert("1").save(path)),
    "interlaced-grey": (".png", lambda path, *shape: save_interlaced(path, grey(*shape))),
    "interlaced-rgba": (".png", lambda path, *shape: save_interlaced(path, with_alpha(*shape))),
    "jpeg-grey": (".jpg", lambda path, *shape: grey(*shape).save(path)),
    "jpeg-444": (".jpg", lambda path, *shape: colour(*shape).save(path, subsampling=0)),
    "jpeg-422": (".jpg", lambda path, *shape: colour(*shape).save(path, subsampling=1)),
    "jpeg-420": (".jpeg", lambda path, *shape: colour(*shape).save(path, subsampling=2)),
    "jpeg-progressive": (".jpg", lambda path, *shape: colour(*shape).save(path, progressive=True)),
    "jpeg-cmyk": (".jpg", lambda path, *shape: colour(*shape).convert("CMYK").save(path)),
    "tiff-grey": (".tif", lambda path, *shape: grey(*shape).save(path)),
    "tiff-rgb-lzw": (".tif", lambda path, *shape: colour(*shape).save(path, compression="tiff_lzw")),
    "tiff-rgba-deflate": (
        ".tiff",
        lambda path, *shape: with_alpha(*shape).save(path, compression="tiff_deflate"),
    ),
    "tiff-packbits": (".tif", lambda path, *shape: grey(*shape).save(path, compression="packbits")),
    "tiff-1-bit": (".tif", lambda path, *shape: grey(*shape).convert("1").save(path)),
}


def dicom(path, stored, slope=1, intercept=-1024, photometric="MONOCHROME2", cut=0):
    """A CT slice: explicit VR, little endian, 16 bits unsigned."""

    def element(group, number, kind, value):
        value += (b"\0" if kind in (b"UI", b"OB", b"OW") else b" ") * (len(value) % 2)
        length = (
            struct.pack("<HI", 0, len(value)) if kind in (b"OB", b"OW") else struct.pack("<H", len(value))
        )
        return struct.pack("<HH", group, number) + kind + length + value

    def word(number):
        return struct.pack("<H", number)

    explicit, ct = b"1.2.840.10008.1.2.1", b"1.2.840.10008.5.1.4.1.1.2"
    meta = element(2, 1, b"OB", b"\0\1") + element(2, 2, b"UI", ct) + element(2, 3, b"UI", b"1.2.3")
    meta += element(2, 0x10, b"UI", explicit) + element(2, 0x12, b"UI", b"1.2.3.4")
    body = element(8, 0x16, b"UI", ct) + element(8, 0x18, b"UI", b"1.2.3") + element(8, 0x60, b"CS", b"CT")
    body += element(0x28, 2, b"US", word(1)) + element(0x28, 4, b"CS", photometric.encode())
    body += element(0x28, 0x10, b"US", word(stored.shape[0])) + element(
        0x28, 0x11, b"US", word(stored.shape[1])
    )
    body += element(0x28, 0x100, b"US", word(16)) + element(0x28, 0x101, b"US", word(16))
    body += element(0x28, 0x102, b"US", word(15)) + element(0x28, 0x103, b"US", word(0))
    body += element(0x28, 0x1052, b"DS", str(intercept).encode()) + element(
        0x28, 0x1053, b"DS", str(slope).encode()
    )
    body += element(0x7FE0, 0x10, b"OW", stored.astype("<u2").tobytes())
    size = element(2, 0, b"UL", struct.pack("<I", len(meta)))
    whole = b"\0" * 128 + b"DICM" + size + meta + body
    path.write_bytes(whole[: len(whole) - cut])
