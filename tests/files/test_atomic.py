"""Files are written whole or not at all, and in one way only."""

import ast
import errno
import os
import threading

import pytest

from tools import ROOT

PACKAGE = ROOT / "python" / "rust_diffusion"
#: What writes to a path by itself, and so may leave half a file.
WRITERS = {"write_text", "write_bytes", "savefig", "save_file"}
#: The lock's number of a process, and a table that grows line by line: no file to be replaced.
EXCEPTIONS = {"files/atomic.py", "files/lock.py", "training/watch/log.py"}


@pytest.fixture
def atomic():
    from rust_diffusion.files import atomic

    return atomic


def put(atomic, path, content):
    with atomic.replacing(path) as file:
        file.write(content)


def test_the_old_content_stands_until_the_new_one_is_complete(atomic, tmp_path):
    path = tmp_path / "a.bin"
    put(atomic, path, b"old")
    with atomic.replacing(path) as file:
        file.write(b"new, and ")
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]
        file.write(b"longer")
    assert path.read_bytes() == b"new, and longer" and os.listdir(tmp_path) == ["a.bin"]


def test_content_that_fails_to_be_made_changes_nothing(atomic, tmp_path):
    put(atomic, tmp_path / "a.bin", b"old")
    with pytest.raises(ZeroDivisionError), atomic.replacing(tmp_path / "a.bin") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "a.bin").read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("before", [True, False])
def test_a_disk_that_refuses_is_named_and_nothing_is_left_behind(atomic, tmp_path, monkeypatch, step, before):
    path = tmp_path / "a.bin"
    if before:
        put(atomic, path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match=r"a\.bin") as caught:
        put(atomic, path, b"new")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert ("still there" in str(caught.value)) == before
    assert os.listdir(tmp_path) == (["a.bin"] if before else [])


def test_content_and_name_are_brought_to_the_disk_in_that_order(atomic, tmp_path, monkeypatch):
    said, fsync, replace = [], os.fsync, os.replace
    kinds = {True: "folder", False: "file"}

    def noted_fsync(handle):
        said.append(kinds[os.path.isdir(f"/proc/self/fd/{handle}")])
        fsync(handle)

    def noted_replace(*paths):
        said.append("name")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    put(atomic, tmp_path / "a.bin", b"new")
    assert said == ["file", "name", "folder"]


def test_threads_that_write_one_file_leave_one_of_their_contents(atomic, tmp_path):
    contents = [bytes([k]) * 200_000 for k in range(6)]

    def run(content):
        for _ in range(10):
            put(atomic, tmp_path / "a.bin", content)

    threads = [threading.Thread(target=run, args=(content,)) for content in contents]
    [thread.start() for thread in threads]
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "a.bin").exists():
            assert (tmp_path / "a.bin").read_bytes() in contents
    [thread.join() for thread in threads]
    assert os.listdir(tmp_path) == ["a.bin"]


def test_models_saved_at_once_into_one_folder_leave_a_whole_one(rd, tmp_path):
    """With a fixed temporary name, one writer took away the other's file."""
    model = rd.DiffusionUNet(base_ch=8, channel_mults=(1, 2), attn_levels=(), time_dim=8)
    said = []

    def run():
        try:
            for _ in range(5):
                model.save_pretrained(tmp_path, betas=rd.cosine_beta_schedule(5), image_size=8)
        except OSError as error:
            said.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert said == [] and sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
    rd.load(tmp_path)


def test_a_model_that_cannot_be_saved_leaves_the_one_before(rd, tmp_path, monkeypatch):
    betas = rd.cosine_beta_schedule(5)
    model = rd.DiffusionUNet(base_ch=8, channel_mults=(1,), attn_levels=(), time_dim=8)
    model.save_pretrained(tmp_path, betas=betas, image_size=8)

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        model.save_pretrained(tmp_path, betas=betas, image_size=16)
    assert rd.load(tmp_path).image_size == (8, 8)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


def _writes(tree):
    """Calls that write to a path: known names, and `open` for writing."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        modes = [a.value for a in node.args[1:] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if name in WRITERS or (name == "open" and any(set(mode) & set("wax+") for mode in modes)):
            yield node


def test_no_other_module_writes_files():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for node in _writes(ast.parse(path.read_text(encoding="utf-8"))):
            written = ast.unparse(node.args[0]) if node.args else ""
            if written != "file":  # the buffer of `atomic.replacing`
                found.add(name)
    assert found <= EXCEPTIONS
