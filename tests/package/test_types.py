"""A user's program passes `mypy --strict` and runs, and nothing is documented in two ways."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from tools import PROGRAMS

EXAMPLE = PROGRAMS / "user_example.py"


def run(*command, cwd):
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=280
    )


@pytest.mark.slow
def test_a_users_program_passes_the_strict_type_checker(tmp_path):
    pytest.importorskip("mypy", reason="needs mypy")
    done = run("-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", EXAMPLE, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_type_checker_notices_a_mistake(tmp_path):
    """The stubs say something: with wrong types in it the same program does not pass."""
    pytest.importorskip("mypy", reason="needs mypy")
    wrong = EXAMPLE.read_text().replace("cosine_beta_schedule(10)", 'cosine_beta_schedule("10")')
    wrong = wrong.replace("sample_steps=3", 'sample_steps="three"')
    (tmp_path / "wrong.py").write_text(wrong)
    done = run(
        "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", "wrong.py", cwd=tmp_path
    )
    assert done.stdout.count("[arg-type]") == 2, done.stdout


def test_a_users_program_runs(tmp_path):
    done = run(EXAMPLE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "samples.png").stat().st_size > 0


def stub_of_the_extension(rd):
    return ast.parse((Path(rd.__file__).parent / "_native.pyi").read_text(encoding="utf-8"))


def test_docstrings_of_the_stub_are_those_of_the_extension(rd):
    functions = {
        node.name: ast.get_docstring(node)
        for node in stub_of_the_extension(rd).body
        if isinstance(node, ast.FunctionDef)
    }
    public = [name for name in functions if name in rd.__all__ and getattr(rd, name).__module__ is None]
    public += [name for name in functions if getattr(rd, name, None) is getattr(rd._native, name)]
    assert len(set(public)) >= 6
    for name in set(public):
        assert functions[name] == inspect.getdoc(getattr(rd, name)), name


def test_defaults_shown_by_the_extension_are_those_it_uses(rd):
    import torch

    for schedule in (rd.cosine_beta_schedule, rd.linear_beta_schedule):
        shown = {
            name: parameter.default
            for name, parameter in inspect.signature(schedule).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        assert shown and torch.equal(schedule(9, **shown), schedule(9))


def test_every_public_name_has_a_docstring_that_says_what_goes_in_and_out(rd):
    for name in rd.__all__:
        value = getattr(rd, name)
        if not callable(value):
            continue
        text = inspect.getdoc(value)
        assert text and len(text) > 30, name
        if inspect.isfunction(value) or inspect.isbuiltin(value):
            takes = inspect.signature(value).parameters
            assert "Returns" in text or "Name the best device" in text or "Parameters are those of" in text, (
                name
            )
            assert not takes or all(parameter in text for parameter in takes if name != "ddim_sample"), name


def test_the_package_says_that_it_is_typed(rd):
    assert (Path(rd.__file__).parent / "py.typed").exists()
