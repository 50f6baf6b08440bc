"""`rust-diffusion reconstruct`: what it writes, what it says, and what it refuses before the network is asked."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import rust_diffusion as rd
from rust_diffusion import operators as ops
from tools import TINY

SIZE = 16
BLUR = ["--operator", "blur", "--kernel", "motion", "--kernel-size", "5"]
SHORT = ["--samples", "3", "--steps", "2", "--device", "cpu"]


@pytest.fixture
def cli(capfd):
    from rust_diffusion.cli import main

    def call(*words):
        """(exit status, standard output, standard error)."""
        status = main([str(word) for word in ("reconstruct", *words)])
        return (status, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network that has learnt nothing."""
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**TINY).eval()
    model.betas, model.image_size = rd.cosine_beta_schedule(12), (SIZE, SIZE)
    folder = tmp_path_factory.mktemp("weights")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def asked(monkeypatch):
    """Counts the calls of the network."""
    from rust_diffusion.cli.restoring import methods

    calls = []
    before = methods.posterior
    monkeypatch.setattr(methods, "posterior", lambda *a, **k: calls.append(a) or before(*a, **k))
    return calls


def results(folder):
    with open(folder / "results.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


OPERATORS = {
    "blur": BLUR,
    "ct": ["--operator", "ct", "--angles", "9", "--angle-range", "120"],
    "inpaint": ["--operator", "inpaint", "--keep", "0.5"],
    "downscale": ["--operator", "downscale", "--factor", "2"],
}


@pytest.mark.parametrize("name", OPERATORS)
def test_clean_images_are_measured_reconstructed_and_compared(cli, weights, tmp_path, name):
    out = tmp_path / "out"
    words = [*OPERATORS[name], "--input", "phantoms:2:5", "--simulate", "--out", out, *SHORT]
    status, text, err = cli("--weights", weights, *words, "--keep-samples")
    assert status == 0, err
    written = {"measurement.npy", "measurement.png", "mean.npy", "mean.png", "std.npy", "std.png", "tv.npy"}
    written |= {"samples.npy", "beside.png", "results.csv", "results.json"}
    assert {path.name for path in out.iterdir()} == written | ({"fbp.npy"} if name == "ct" else set())
    mean, samples = np.load(out / "mean.npy"), np.load(out / "samples.npy")
    assert mean.shape == (2, 1, SIZE, SIZE) and samples.shape == (2, 3, 1, SIZE, SIZE)
    assert np.allclose(mean, samples.mean(1), atol=1e-5)
    assert np.allclose(np.load(out / "std.npy"), samples.std(1, ddof=1), atol=1e-5)
    rows = results(out)
    methods = ["daps, mean of 3", "daps, one draw", *(["fbp"] if name == "ct" else []), "tv, best weight"]
    assert [row["method"] for row in rows[::2]] == methods and all(method in text for method in methods)
    truth = (rd.phantoms(2, size=SIZE, seed=5) + 1) / 2
    want = -10 * np.log10(((mean.clip(-1, 1) + 1) / 2 - truth.numpy()).__pow__(2).mean((1, 2, 3)))
    assert np.allclose([float(row["psnr"]) for row in rows[:2]], want, atol=1e-3)
    assert 0 <= float(rows[0]["coverage"]) <= 1 and rows[0]["calls"] == "6"
    assert float(rows[0]["nominal"]) == 0.5 and "nominal" in text
    settings = json.loads((out / "results.json").read_text())["settings"]
    assert settings["operator"] == name and settings["method"] == "daps" and settings["seed"] == 0
    assert len(settings["sigma"]) == 2 and all(sigma > 0 for sigma in settings["sigma"])


@pytest.mark.parametrize("method", ["dps", "diffpir", "ddnm", "pigdm", "mmps", "tv"])
def test_every_method_is_there(cli, weights, tmp_path, method):
    words = [*BLUR, "--boundary", "circular", "--input", "phantoms:1:5", "--simulate", "--sigma", "0.1"]
    status, text, err = cli(
        "--weights", weights, *words, "--method", method, *SHORT, "--out", tmp_path / "out"
    )
    assert status == 0 and method in text, err


def test_a_sinogram_is_taken_as_it_is_and_the_same_seed_draws_the_same(cli, weights, tmp_path):
    angles = np.linspace(0, np.pi * 120 / 180, 9, endpoint=False)
    projector = ops.CTProjector((SIZE, SIZE), angles)
    clean = rd.phantoms(1, size=SIZE, seed=5)
    y = (projector.on_unit_range()(clean) + 0.05)[0, 0]
    np.save(tmp_path / "sinogram.npy", y.double().numpy())
    words = [*OPERATORS["ct"], "--unit-range", "--input", tmp_path / "sinogram.npy", "--sigma", "0.05"]
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        status, text, err = cli("--weights", weights, *words, *SHORT, "--seed", "4", "--out", out)
        assert status == 0 and "PSNR" not in text and "chi^2" in text, err
    (tv,) = (float(row["chi2"]) for row in results(outs[0]) if row["method"] == "tv, by the noise")
    assert tv == pytest.approx(1, abs=0.1), "it explains what the noise leaves to explain"
    assert np.array_equal(np.load(outs[0] / "mean.npy"), np.load(outs[1] / "mean.npy"))
    assert np.allclose(np.load(outs[0] / "measurement.npy")[0, 0], y)
    wanted = rd.posterior(
        "daps",
        rd.load(weights),
        y[None, None],
        projector.on_unit_range(),
        torch.cumprod(1 - rd.cosine_beta_schedule(12), 0),
        "cpu",
        sigma_y=0.05,
        num_samples=3,
        sample_steps=2,
        seed=4,
    )
    assert np.allclose(np.load(outs[0] / "mean.npy"), wanted.mean, atol=1e-6)


def test_measurements_in_other_units_are_told_by_what_they_leave_unexplained(cli, tmp_path):
    np.save(tmp_path / "y.npy", 100 * np.random.default_rng(0).random((1, SIZE, SIZE), np.float32))
    words = [*BLUR, "--method", "tv", "--size", SIZE, "--input", tmp_path / "y.npy"]
    status, _, err = cli(*words, "--sigma", "0.01", "--out", tmp_path / "wrong")
    assert status == 0 and "chi^2 of tv is up to" in err and "--unit-range" in err
    status, _, err = cli(*words, "--sigma", "40", "--out", tmp_path / "right")
    assert status == 0 and "chi^2 of" not in err


def test_pictures_are_measurements_where_the_operator_makes_pictures(cli, tmp_path):
    from rust_diffusion.cli import outputs

    outputs.write(tmp_path / "small", rd.phantoms(2, size=SIZE, seed=5))
    words = ["--method", "tv", "--operator", "downscale", "--factor", "2", "--size", str(2 * SIZE)]
    status, _, err = cli(*words, "--input", tmp_path / "small", "--sigma", "0.02", "--out", tmp_path / "out")
    assert status == 0, err
    assert [row["image"] for row in results(tmp_path / "out")] == ["0000.png", "0001.png"]
    assert np.load(tmp_path / "out" / "mean.npy").shape == (2, 1, 2 * SIZE, 2 * SIZE)


def test_one_draw_has_no_spread_and_grey_levels_are_taken_for_pictures(cli, weights, tmp_path):
    levels = ((rd.phantoms(1, size=SIZE, seed=5) + 1) * 127.5).round().byte().numpy()
    np.save(tmp_path / "levels.npy", levels)
    words = [*BLUR, "--input", tmp_path / "levels.npy", "--sigma", "0.1", "--samples", "1", "--steps", "2"]
    status, _, err = cli("--weights", weights, *words, "--out", tmp_path / "out")
    assert status == 0, err
    assert [row["method"] for row in results(tmp_path / "out")] == ["daps, one draw", "tv, by the noise"]
    assert np.allclose(np.load(tmp_path / "out" / "measurement.npy"), levels / 127.5 - 1, atol=1e-6)


def test_a_mask_is_a_picture_and_back_projection_needs_no_noise(cli, tmp_path):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[::2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = [
        "--operator",
        "inpaint",
        "--mask",
        tmp_path / "mask.png",
        "--method",
        "tv",
        "--tv-weight",
        "0.01",
    ]
    words += ["--size", str(SIZE), "--input", "phantoms:1:5", "--simulate", "--sigma", "0"]
    status, _, err = cli(*words, "--out", tmp_path / "out")
    assert status == 0, err
    assert (np.load(tmp_path / "out" / "measurement.npy")[0, 0, 1::2] == 0).all()
    np.save(tmp_path / "y.npy", np.zeros((2, 9, 24), np.float32))
    words = [*OPERATORS["ct"], "--method", "fbp", "--size", str(SIZE), "--input", tmp_path / "y.npy"]
    assert cli(*words, "--out", tmp_path / "fbp")[0] == 0
    assert np.load(tmp_path / "fbp" / "mean.npy").shape == (2, 1, SIZE, SIZE)


def test_the_denoisers_own_error_can_be_measured_first(cli, weights, tmp_path):
    words = [*BLUR, "--input", "phantoms:1:5", "--simulate", "--held-out", "phantoms:2:7", *SHORT]
    assert cli("--weights", weights, *words, "--out", tmp_path / "out")[0] == 0
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert settings["held_out"] == "phantoms:2:7" and "r2" not in settings
    status, _, err = cli("--weights", weights, *words, "--method", "dps", "--out", tmp_path / "out")
    assert status == 2 and "--held-out" in err


def test_a_network_that_is_off_can_be_trusted_less(cli, weights, tmp_path):
    words = ["--weights", weights, *BLUR, "--input", "phantoms:1:5", "--simulate", *SHORT]
    assert cli(*words, "--out", tmp_path / "plain")[0] == 0
    assert cli(*words, "--widen", "--out", tmp_path / "widened")[0] == 0
    plain, widened = (np.load(tmp_path / name / "mean.npy") for name in ("plain", "widened"))
    assert not np.array_equal(plain, widened)


def _files(folder):
    np.save(folder / "nan.npy", np.full((SIZE, SIZE), np.nan, np.float32))
    np.save(folder / "small.npy", np.zeros((8, 8), np.float32))
    np.save(folder / "text.npy", np.array(["a"]))
    (folder / "broken.npy").write_bytes(b"\x93NUMPY")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "small.png")
    (folder / "slices").mkdir()
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(folder / "slices" / "0.png")
    (folder / "slices" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (folder / "file").write_text("")


SIMULATED = ["--input", "phantoms:1", "--simulate"]
WRONG = [
    ([*BLUR, "--input", "nowhere.png", "--simulate"], 1, "nowhere.png"),
    ([*BLUR, "--input", "nowhere.npy", "--sigma", "1"], 1, "nowhere.npy: there is no such file"),
    ([*BLUR, "--input", "nan.npy", "--sigma", "1"], 1, "must be finite"),
    ([*BLUR, "--input", "nan.npy", "--simulate"], 1, "nan.npy"),
    ([*BLUR, "--input", "small.npy", "--sigma", "1"], 1, "(1, 16, 16) each, got (1, 1, 8, 8)"),
    ([*BLUR, "--input", "text.npy", "--sigma", "1"], 1, "real numbers"),
    ([*BLUR, "--input", "broken.npy", "--sigma", "1"], 1, "cannot be read"),
    ([*BLUR, "--input", "small.png", "--sigma", "1"], 1, "8 x 8 pixels"),
    ([*BLUR, "--input", "slices", "--simulate"], 1, "1.png"),
    ([*BLUR, "--input", "slices/0.png"], 2, "needs --sigma"),
    ([*BLUR, "--input", "slices/0.png", "--sigma", "-1"], 1, "--sigma must be at least 0"),
    ([*BLUR, "--input", "slices/0.png", "--sigma", "0"], 2, "above 0"),
    ([*BLUR, "--input", "slices/0.png", "--noise-level", "0.1"], 2, "only with --simulate"),
    ([*BLUR, *SIMULATED, "--sigma", "1", "--noise-level", "1"], 2, "either --sigma or --noise-level"),
    ([*BLUR, *SIMULATED, "--angles", "9"], 2, "--angles: only for --operator ct, not blur"),
    ([*BLUR, *SIMULATED, "--method", "fbp"], 2, "--method fbp is for --operator ct"),
    ([*BLUR, *SIMULATED, "--zeta", "0.1"], 2, "--zeta is not for --method daps, only for diffpir"),
    ([*BLUR, *SIMULATED, "--method", "dps", "--widen"], 2, "--widen is not for --method dps, only for daps"),
    ([*BLUR, *SIMULATED, "--steps", "13"], 1, "--sample-steps must be between 1 and 12"),
    ([*BLUR, *SIMULATED, "--samples", "0"], 1, "--num-samples must be"),
    ([*BLUR, *SIMULATED, "--size", "32"], 2, "trained on 16 x 16"),
    (["--operator", "blur", *SIMULATED, "--kernel-file", "nowhere.npy"], 1, "--kernel-file nowhere.npy"),
    ([*BLUR, *SIMULATED, "--kernel-file", "k.npy"], 2, "--kernel-size: not beside --kernel-file"),
    (["--operator", "ct", *SIMULATED, "--source-origin", "200"], 2, "only for --geometry fanflat"),
    (["--operator", "ct", "--input", "slices/0.png", "--sigma", "1"], 2, "a sinogram is a .npy file"),
    (["--operator", "ct", *SIMULATED, "--angle-range", "1,2,3"], 2, "--angle-range"),
    (["--operator", "ct", *SIMULATED, "--angles", "0"], 2, "--angles"),
    (["--operator", "inpaint", *SIMULATED], 2, "one of --keep, --box and --mask"),
    (["--operator", "inpaint", *SIMULATED, "--keep", "0"], 1, "keeps no pixel"),
    (["--operator", "inpaint", *SIMULATED, "--box", "9,9,9,9"], 1, "box must lie within"),
    (["--operator", "inpaint", *SIMULATED, "--mask", "small.png"], 1, "mask must have shape (16, 16)"),
    (["--operator", "downscale", *SIMULATED, "--factor", "3"], 1, "downscale_factor must divide"),
    (["--operator", "sharpen", *SIMULATED], 2, "sharpen"),
]


@pytest.mark.parametrize("words, expected, message", WRONG, ids=[" ".join(w[-4:]) for w, _, _ in WRONG])
def test_mistakes_are_told_in_words_before_any_work(
    cli, weights, tmp_path, monkeypatch, words, expected, message
):
    monkeypatch.chdir(tmp_path)
    _files(tmp_path)
    status, out, err = cli("--weights", weights, *words, "--out", "out", "--device", "cpu")
    assert status == expected and message in err, err
    assert "Traceback" not in out + err
    assert not (tmp_path / "out").exists(), "nothing was written"


@pytest.mark.parametrize(
    "out, message",
    [("nowhere/out", "no folder"), ("file", "is a file"), ("/proc/out", "/proc"), ("x.png", "folder")],
)
def test_where_nothing_can_be_written_is_told_before_any_work(
    cli, weights, asked, tmp_path, monkeypatch, out, message
):
    monkeypatch.chdir(tmp_path)
    _files(tmp_path)
    status, _, err = cli("--weights", weights, *BLUR, *SIMULATED, "--out", out)
    assert status == 1 and message in err and not asked, err


def test_weights_are_needed_by_methods_that_use_them(cli, tmp_path):
    status, _, err = cli(*BLUR, *SIMULATED, "--out", tmp_path / "out")
    assert status == 2 and "--method daps needs --weights" in err
