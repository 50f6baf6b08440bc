"""The documentation: examples run, commands exist, links lead somewhere, the site builds without warnings."""

import doctest
import inspect
import re
import shlex
import subprocess
import sys

import click
import pytest

from tools import ROOT

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "howto").glob("*.md")),
]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def blocks(path, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.fixture
def workplace(rd, tmp_path, monkeypatch):
    """A folder such as the pages speak of: some scans, and weights of a (hardly) trained denoiser."""
    from rust_diffusion.cli import outputs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    slices = rd.phantoms(16, size=32)
    outputs.write("scans", slices)
    model = rd.DiffusionUNet(base_ch=8, channel_mults=(1, 2), attn_levels=())
    rd.train(
        model, slices, betas=rd.cosine_beta_schedule(100), epochs=1, weights_dir="weights", progress=False
    )
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "python")], ids=name_of)
def test_the_examples_of_a_page_run_one_after_the_other(path, workplace):
    if "tutorial" in path.name or path.name in ("index.md", "README.md"):
        # They train what they load.
        for file in (workplace / "weights").iterdir():
            file.unlink()
    names = {"__name__": name_of(path)}
    for number, block in enumerate(blocks(path, "python"), start=1):
        block = re.sub(r"minutes=[\d.]+", "minutes=0.02", block)  # what the pages take is too long for a test
        exec(compile(block, f"{name_of(path)}, example {number}", "exec"), names)
    import matplotlib.pyplot as plt

    plt.close("all")


def commands():
    for path in PAGES:
        for block in blocks(path, "console") + blocks(path, "text"):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                line = line.removeprefix("$ ").strip()
                if line.startswith(("rust-diffusion ", "python -m rust_diffusion ")):
                    yield pytest.param(line, id=f"{name_of(path)}: {line}")


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_pages_is_understood(line):
    from rust_diffusion.cli import cli

    words = shlex.split(line, comments=True)
    words = words[3:] if words[0] == "python" else words[1:]
    if words[0].startswith("-"):
        return
    command = cli.commands[words[0]]
    parent = click.Context(cli, obj=type("State", (), {"debug": False})())
    if "--help" not in words:
        command.make_context(words[0], words[1:], parent=parent)


def test_makefile_targets_of_the_pages_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in PAGES:
        for target in re.findall(r"^\$? ?make (\w+)", "\n".join(blocks(path, "console")), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name_of(path)}: make {target}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_to_files_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:|#|<)([^)#\s]+)", path.read_text(encoding="utf-8")):
        if target.startswith("notebooks/") and path.is_relative_to(ROOT / "docs"):
            target = "../" + target  # copied there when the site is built
        found = [path.parent / target, path.parent / f"{target}.md", path.parent / f"{target}.ipynb"]
        assert any(candidate.exists() for candidate in found), f"{name_of(path)}: {target}"


def test_examples_in_docstrings_hold(rd):
    runner, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), 0
    for name in rd.__all__:
        value = getattr(rd, name)
        if inspect.getdoc(value):
            test = doctest.DocTestParser().get_doctest(inspect.getdoc(value), {}, name, None, None)
            tried += bool(test.examples)
            runner.run(test)
    assert runner.failures == 0 and tried >= 4


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    for package in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(package, reason=f"needs {package} (pip install '.[docs]')")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "--fail-on-warning",
            "--keep-going",
            "-q",
            "docs",
            str(tmp_path / "html"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "cosine_beta_schedule" in (tmp_path / "html" / "reference.html").read_text(encoding="utf-8")


def test_a_page_says_where_its_figures_come_from():
    """Each table of measurements in the README stands under the command that makes it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    speed = re.search(r"^## Speed$(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    assert speed and "make bench" in speed.group(1)
