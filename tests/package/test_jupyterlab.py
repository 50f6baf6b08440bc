"""The package in JupyterLab, in a real browser: the bar moves, Stop stops, the run resumes, the viewer shows.

Leaves screenshots in test-output/. Skipped, with the reason, where browser or tools are missing.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tools import ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
pytest.importorskip("jupyterlab", reason="needs jupyterlab")
pytest.importorskip("ipywidgets", reason="needs ipywidgets")
nbformat = pytest.importorskip("nbformat", reason="needs nbformat")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs a browser (apt-get install chromium)"),
    pytest.mark.slow,
]
SCREENSHOTS = ROOT / "test-output"
TOKEN = "for-this-test-only"

# More epochs than anybody waits for; on one thread, so that the browser gets the other.
CELLS = [
    """
import torch
import rust_diffusion as rd

torch.set_num_threads(1)
slices = rd.phantoms(160, size=32, seed=0)
settings = dict(betas=rd.cosine_beta_schedule(50), epochs=100, batch_size=4, seed=0, weights_dir="weights")

def run(**options):
    torch.manual_seed(0)
    model = rd.DiffusionUNet(base_ch=32, channel_mults=(1, 2), attn_levels=(), time_dim=32)
    return rd.train(model, slices, **settings, ema_decay=0.9, device="cpu", **options)

print("ready")
""",
    "run()",
    """
saved = torch.load("weights/DDPMDenoiser.ckpt", weights_only=True)
done = saved["rust_diffusion"]["position"]["updates"]
result = run(max_steps=(done // 40 + 2) * 40 + 1)
print("stopped after", done, "steps, then", len(result.history) - len(saved["history"]), "more epochs")
""",
    "result",
    "result.plot();",
    "rd.show_batch(result.ema.shadow.sample(4, seed=0), 'Samples');",
    """
model = rd.DiffusionUNet(base_ch=8, channel_mults=(1, 2), attn_levels=(), time_dim=16)
model.betas, model.image_size = rd.cosine_beta_schedule(20), (16, 16)
rd.explore(model, sample_steps=8)
""",
]


@pytest.fixture
def notebook_url(tmp_path):
    """A JupyterLab server of its own, with one notebook in its folder."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS])
    # Without it JupyterLab asks which kernel to use.
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    root = tmp_path / "notebooks"
    root.mkdir()
    nbformat.write(notebook, root / "run.ipynb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--ServerApp.root_dir={root}", f"--IdentityProvider.token={TOKEN}"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url="]
    folders = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("CONFIG", "RUNTIME", "DATA")}
    folders["JUPYTERLAB_SETTINGS_DIR"] = str(tmp_path / "settings")
    # Cells that come and go with scrolling would be gone between finding one and using it.
    keep_cells = tmp_path / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    keep_cells.parent.mkdir(parents=True)
    keep_cells.write_text('{"windowingMode": "none"}')
    log = (tmp_path / "server.log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | folders)
    try:
        for _ in range(120):
            assert server.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={TOKEN}", timeout=2)
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/run.ipynb?reset&token={TOKEN}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def page(notebook_url):
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    flags += ["--no-first-run", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=flags)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(90_000)
        page.goto(notebook_url)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        yield page
        shoot(page, "end")
        browser.close()


def start(page, index):
    """Run one cell and return it. A page still busy loading swallows keys or redraws what was just found,
    so both are tried again."""
    cell = page.locator(".jp-CodeCell").nth(index)
    for _ in range(5):
        with contextlib.suppress(AssertionError, playwright.Error):
            cell.locator(".cm-content").click(timeout=15_000)
            page.keyboard.press("Control+Enter")
            started = re.compile(r"\[(\*|\d+)\]:")
            playwright.expect(cell.locator(".jp-InputPrompt")).to_have_text(started, timeout=15_000)
            return cell
    shoot(page, "stuck")
    raise AssertionError(f"cell {index} did not start")


def finish(page, cell):
    """Wait until the cell has been executed: its prompt shows a number."""
    playwright.expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=240_000)
    return cell


def shown(cell):
    """(epoch, percent) of the bar: its title, and how much of the run is done."""
    text = cell.locator(".jp-OutputArea").inner_text()
    return max(
        ((int(e), int(p)) for e, p in re.findall(r"epoch\s+(\d+)/\d+:\s+(\d+)%", text)), default=(0, 0)
    )


def wait_until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def shoot(page, name):
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"jupyterlab-{name}.png")


def test_training_in_jupyterlab(page):
    playwright.expect(finish(page, start(page, 0)).locator(".jp-OutputArea")).to_contain_text("ready")

    # The bar is a widget, and it moves.
    training = start(page, 1)
    training.locator(".widget-hprogress .progress-bar").last.wait_for(state="attached")
    before = shown(training)
    wait_until(lambda: shown(training) > max(before, (1, 0)))
    shoot(page, "training")

    # Stop ends it within a step: the hundred epochs would take much longer than this.
    pressed = time.monotonic()
    page.locator('[data-command="notebook:interrupt-kernel"]').first.click()
    finish(page, training)
    assert time.monotonic() - pressed < 20
    playwright.expect(training.locator(".jp-OutputArea")).to_contain_text("KeyboardInterrupt")
    assert not re.search("PanicException|SystemError", training.inner_text())
    shoot(page, "stopped")

    # The same call goes on from there; max_steps ends it early in the third epoch from there.
    resumed = finish(page, start(page, 2)).locator(".jp-OutputArea")
    playwright.expect(resumed).to_contain_text(
        re.compile(r"stopped after [1-9]\d* steps, then 2 more epochs")
    )

    # Table, plot and pictures.
    table = finish(page, start(page, 3)).locator(".jp-RenderedHTMLCommon table")
    assert table.locator("tr").count() > 1
    for index in (4, 5):
        image = finish(page, start(page, index)).locator(".jp-RenderedImage img").first
        wait_until(lambda image=image: image.evaluate("image => image.complete && image.naturalWidth > 100"))
        image.evaluate("image => image.scrollIntoView()")
    shoot(page, "result")


def test_the_viewer_in_jupyterlab(page):
    finish(page, start(page, 0))
    viewer = finish(page, start(page, 6)).locator(".jp-OutputArea")
    images = viewer.locator("img.widget-image")
    playwright.expect(images).to_have_count(3)
    playwright.expect(viewer).to_contain_text("step 1 of 8, t = 19")
    before = images.first.get_attribute("src")

    slider = viewer.locator(".noUi-handle").last
    slider.focus()
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    playwright.expect(viewer).to_contain_text("step 8 of 8, t = 0")
    wait_until(lambda: images.first.get_attribute("src") != before)
    viewer.evaluate("viewer => viewer.scrollIntoView({block: 'end'})")
    shoot(page, "viewer")

    viewer.locator("select").select_option("ddpm")
    playwright.expect(viewer).to_contain_text("of 20, t =")
    shoot(page, "viewer-ddpm")
