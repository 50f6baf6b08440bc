"""The lock of a run's files: held by one at a time, in whatever process or thread, and by nobody who is dead."""

import ast
import errno
import os
import threading

import pytest

from tools import ROOT, run_python


@pytest.fixture
def exclusive():
    from rust_diffusion.files.lock import exclusive

    return exclusive


def test_a_lock_is_held_by_one_and_gone_afterwards(exclusive, tmp_path):
    with exclusive(tmp_path / "run.lock"):
        assert (tmp_path / "run.lock").read_text().strip() == str(os.getpid())
        with (
            pytest.raises(RuntimeError, match=r"another run of this process is writing .*run\.\*"),
            exclusive(tmp_path / "run.lock"),
        ):
            pass
        with exclusive(tmp_path / "other.lock"):
            pass
    assert os.listdir(tmp_path) == []
    with exclusive(tmp_path / "run.lock"):
        pass


def test_the_holder_may_be_another_process(exclusive, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys; from pathlib import Path; from rust_diffusion.files.lock import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held')\n"
    )
    with exclusive(tmp_path / "run.lock"):
        done = run_python(program, tmp_path / "run.lock")
    assert done.returncode == 1 and f"another run (process {os.getpid()}) is writing" in done.stderr
    assert run_python(program, tmp_path / "run.lock").stdout == "held\n"


def test_what_a_dead_process_left_locks_nothing(exclusive, tmp_path):
    (tmp_path / "run.lock").write_text("123456\n")
    with exclusive(tmp_path / "run.lock"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_is_released_when_its_run_fails(exclusive, tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "run.lock"):
        raise ZeroDivisionError
    with exclusive(tmp_path / "run.lock"):
        pass


def test_threads_take_turns(exclusive, tmp_path):
    inside, most, done = [], [], []

    def run():
        while len(done) < 30:
            try:
                with exclusive(tmp_path / "run.lock"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    done.append(1)
            except RuntimeError:
                continue

    threads = [threading.Thread(target=run) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert len(done) >= 30 and set(most) == {1} and os.listdir(tmp_path) == []


def test_a_file_system_without_locks_is_written_to_all_the_same(exclusive, tmp_path, monkeypatch):
    from rust_diffusion.files import lock

    def refuse(*_, **__):
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(lock.FileLock, "acquire", refuse)
    with exclusive(tmp_path / "run.lock"):
        pass
    assert os.listdir(tmp_path) == []


def test_no_module_needs_what_only_posix_has():
    """Locks by `fcntl` alone left Windows without any."""
    for path in (ROOT / "python").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {"fcntl", "pwd", "resource"} & set(names), path
