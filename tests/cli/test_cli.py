"""The command line: what it writes, what it says, and how it ends."""

import inspect
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import images
from tools import TINY_UNET2D, run_python, same_state

SMALL = ["--base-ch", "8", "--channel-mults", "1,2", "--attn-levels", "1", "--num-heads", "2"]
TINY = [*SMALL, "--time-dim", "16", "--num-steps", "12"]
TRAIN = [
    "train",
    "--data",
    "phantoms:12",
    "--size",
    "16",
    "--epochs",
    "2",
    "--batch-size",
    "4",
    "--seed",
    "0",
    *TINY,
]


@pytest.fixture
def cli(capfd):
    from rust_diffusion.cli import main

    def call(*words):
        """(exit status, standard output, standard error)."""
        status = main([str(word) for word in words])
        return (status, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder that `train` wrote into."""
    from rust_diffusion.cli import main

    out = tmp_path_factory.mktemp("cli") / "weights"
    assert main([*TRAIN, "--device", "cpu", "--out", str(out)]) == 0
    return out


def test_train_leaves_weights_that_sample_reads(cli, tmp_path):
    run = tmp_path / "a run's folder"
    status, out, err = cli(*TRAIN, "--device", "cpu", "--out", run, "--name", "mine")
    assert status == 0, err
    assert "epoch 1/2" in out and "epoch 2/2" in out, "a line per epoch where there is no terminal"
    assert "\r" not in out + err and "%|" not in err, "no bar where there is no terminal"
    files = {path.name for path in run.iterdir()}
    assert {"mine.ckpt", "mine.pth", "mine_raw.pth"} <= files
    # The hint at the end is a command that works.
    words = shlex.split(re.search(r"^Next: rust-diffusion (.*)$", out, re.MULTILINE).group(1))
    words[words.index("--out") + 1] = tmp_path / "grid.png"
    status, out, err = cli(*words)
    assert status == 0 and Image.open(tmp_path / "grid.png").size[0] > 32, err


def test_the_same_train_command_goes_on(cli, tmp_path):
    command = [*TRAIN, "--device", "cpu", "--out", tmp_path]
    command[command.index("--epochs") + 1] = "1"
    assert cli(*command)[0] == 0
    command[command.index("--epochs") + 1] = "3"
    status, out, err = cli(*command)
    assert status == 0 and "epoch 1/3" not in out and "epoch 2/3" in out and "epoch 3/3" in out
    assert "2 epochs" in out, err
    # what the run says beside its bar, where there is none
    assert "Resuming from epoch 2." in out
    again = cli(*command)[1]
    assert (
        again.count("Nothing to train") == 1
        and "a larger --epochs;" in again
        and "0 epochs, 9 updates" in again
    )


def test_a_run_that_max_steps_ended_within_an_epoch_was_trained_all_the_same(cli, tmp_path):
    status, out, err = cli(
        *TRAIN, "--max-steps", "1", "--lr-schedule", "cosine", "--device", "cpu", "--out", tmp_path
    )
    assert status == 0 and "Nothing to train" not in out and "inf" not in out.splitlines()[-2], err
    assert "0 epochs, 1 updates in all. Weights: " in out


def test_train_reads_a_folder_of_images(cli, rd, tmp_path):
    from rust_diffusion.cli import outputs

    outputs.write(tmp_path / "scans", rd.phantoms(6, size=16))
    command = [*TRAIN, "--device", "cpu", "--out", tmp_path / "out"]
    command[command.index("phantoms:12")] = tmp_path / "scans"
    status, out, _ = cli(*command)
    assert status == 0 and "6 images of 16 x 16" in out


def test_images_need_not_be_square(cli, rd, tmp_path):
    images.grey(40, 60).save(tmp_path / "wide.png")
    data = ["--data", tmp_path / "wide.png", "--size", "16,24", "--epochs", "1"]
    status, out, err = cli("train", *data, *TINY, "--device", "cpu", "--out", tmp_path / "run")
    assert status == 0 and "1 images of 16 x 24" in out, err
    assert rd.load(tmp_path / "run").image_size == (16, 24)
    drawn = ["sample", "--weights", tmp_path / "run", "--steps", "2", "--num-samples", "3"]
    for size, shape in (((), (16, 24)), (("--size", "24,16"), (24, 16)), (("--size", "16"), (16, 16))):
        assert cli(*drawn, *size, "--out", tmp_path / "x.npy")[0] == 0
        assert np.load(tmp_path / "x.npy").shape == (3, 1, *shape)


def test_another_objective_leaves_the_recipes_sampler(cli, tmp_path):
    for objective in ("v", "flow"):
        _, out, _ = cli(*TRAIN, "--objective", objective, "--device", "cpu", "--out", tmp_path / objective)
        assert f"objective='{objective}'" in out and "sampler='dpmpp'" in out


def test_a_recipe_is_the_same_in_python(cli, rd, tmp_path):
    command = [
        "train",
        "--data",
        "phantoms:12",
        "--size",
        "16",
        "--epochs",
        "2",
        "--base-ch",
        "8",
        "--seed",
        "0",
    ]
    status, out, err = cli(*command, "--device", "cpu", "--out", tmp_path / "shell")
    assert status == 0 and "Recipe 'minutes'" in out and "learning_rate=0.002" in out, err
    recipe = rd.recipe(size=16)
    recipe.network["base_ch"] = 8
    del recipe.training["minutes"]
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**recipe.network)
    more = dict(seed=0, epochs=2, device="cpu", progress=False, weights_dir=tmp_path / "python")
    rd.train(model, rd.phantoms(12, size=16), betas=recipe.betas, **recipe.training, **more)
    files = [
        torch.load(tmp_path / name / "DDPMDenoiser.pth", weights_only=True) for name in ("shell", "python")
    ]
    assert same_state(*files)


def test_train_takes_minutes_and_recipes(cli, tmp_path):
    command = ["train", "--data", "phantoms:12", "--size", "16", "--device", "cpu", "--seed", "0"]
    status, out, err = cli(*command, "--base-ch", "8", "--minutes", "0.05", "--out", tmp_path / "minutes")
    assert status == 0 and "minutes=0.05" in out and "epoch 1" in out, err
    assert re.search(r"^[\d,]+ updates? \(\d+ epochs?\) fit into 0\.05 minutes, at ", out, re.MULTILINE), out
    course = [*TINY, "--epochs", "1", "--batch-size", "4", "--recipe", "course"]
    status, out, err = cli(*command, *course, "--out", tmp_path / "course")
    assert status == 0 and "Recipe 'course'" in out and "objective='eps'" in out, err
    assert cli(*command, "--epochs", "1", "--minutes", "1", "--out", tmp_path / "both")[0] == 2


def test_every_option_of_train_and_the_samplers_is_there(cli, rd):
    for command, functions in (
        ("train", [rd.train, rd.DiffusionUNet]),
        ("sample", [rd.ddim_sample, rd.DiffusionUNet.sample]),
    ):
        out = cli(command, "--help")[1]
        missing = {
            name
            for function in functions
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not inspect.Parameter.empty
            and not re.search(rf"--(no-)?{name.replace('_', '-')}\b", out)
        }
        # in Python only: objects; under another name: image_size is --size
        assert missing <= {"callback", "progress", "generator", "x_T", "in_ch", "image_size", "key"}


def test_defaults_in_the_help_are_pythons(cli, rd):
    out = " ".join(cli("train", "--help")[1].split())
    for name, parameter in inspect.signature(rd.train).parameters.items():
        if isinstance(parameter.default, float):
            shown = re.search(rf"--{name.replace('_', '-')} FLOAT.*?\[default: (.*?)\]", out).group(1)
            recipe = rd.recipe().training
            assert shown == "(the recipe's)" if name in recipe else float(shown) == parameter.default, name


@pytest.mark.parametrize(
    "words",
    [["--help"], *([c, "--help"] for c in ["demo", "train", "sample", "evaluate", "reconstruct", "info"])],
)
def test_help_has_a_summary_and_examples(cli, words):
    status, out, _ = cli(*words)
    assert status == 0 and "Usage:" in out
    if len(words) == 2:
        assert f"  rust-diffusion {words[0]}" in out.split("Examples:")[1]


def test_sample_writes_every_form(cli, weights, tmp_path):
    names = ["grid.png", "values.npy", "values.pt", "walk.gif", "singles"]
    outs = [word for name in names for word in ("--out", tmp_path / name)]
    status, out, err = cli(
        "sample", "--weights", weights, "--num-samples", 5, "--steps", 6, "--seed", 0, *outs
    )
    assert status == 0, err
    values = np.load(tmp_path / "values.npy")
    assert values.shape == (5, 1, 16, 16) and values.dtype == np.float32 and np.abs(values).max() <= 1
    assert torch.equal(torch.load(tmp_path / "values.pt", weights_only=True), torch.from_numpy(values))
    singles = sorted((tmp_path / "singles").iterdir())
    assert [path.name for path in singles] == [f"{k:04d}.png" for k in range(5)]
    levels = np.round((values[3, 0] + 1) / 2 * 255)
    assert np.abs(np.asarray(Image.open(singles[3])) - levels).max() <= 1
    animation = Image.open(tmp_path / "walk.gif")
    assert animation.n_frames == 6, "a frame per step"
    assert Image.open(tmp_path / "grid.png").size[0] > 3 * 16
    assert [line for line in out.splitlines() if line.startswith("Wrote")] == [
        f"Wrote {tmp_path / n}" for n in names
    ]


@pytest.mark.parametrize("sampler", [["ddim", "--eta", "1.0", "--steps", "5"], ["ddpm"]])
def test_image_k_does_not_depend_on_the_batch(cli, weights, tmp_path, sampler):
    def draw(count, *words):
        path = tmp_path / "values.npy"
        assert (
            cli(
                "sample",
                "--weights",
                weights,
                "--sampler",
                *sampler,
                "--num-samples",
                count,
                *words,
                "--out",
                path,
            )[0]
            == 0
        )
        return np.load(path)

    together = draw(6, "--seed", 7)
    in_batches = draw(6, "--seed", 7, "--batch-size", 4)
    fewer = draw(2, "--seed", 8)
    assert np.allclose(in_batches, together, atol=1e-3)
    assert np.allclose(fewer, together[1:3], atol=1e-3)
    assert not np.allclose(together[0], together[1], atol=1e-2)


def test_bare_weights_sample_with_what_is_said_about_them(cli, weights, rd, tmp_path):
    bare = tmp_path / "bare.pth"
    bare.write_bytes((weights / "DDPMDenoiser.pth").read_bytes())
    said = ["--num-steps", 12, "--num-heads", 2, "--size", 16, "--seed", 0]
    assert cli("sample", "--weights", bare, *said, "--out", tmp_path / "a.npy")[0] == 0
    assert cli("sample", "--weights", weights, "--seed", 0, "--out", tmp_path / "b.npy")[0] == 0
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_evaluate_tells_sets_apart(cli, rd, weights, tmp_path):
    from rust_diffusion.cli import outputs

    outputs.write(tmp_path / "a", rd.phantoms(24, size=32, seed=1))
    outputs.write(tmp_path / "noise", torch.randn(24, 1, 32, 32).clamp(-1, 1))
    reports = {}
    for name in ("phantoms:24", tmp_path / "noise"):
        status, out, err = cli(
            "evaluate",
            "--samples",
            name,
            "--data",
            tmp_path / "a",
            "--size",
            32,
            "--out",
            tmp_path / "report.png",
        )
        assert status == 0 and (tmp_path / "report.png").stat().st_size > 0, err
        reports[str(name)] = out
    assert len(set(reports.values())) == 2


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_evaluate_takes_the_values_that_sample_wrote(cli, rd, weights, tmp_path, suffix):
    drawn, training = tmp_path / f"drawn{suffix}", ("--data", "phantoms:9")
    words = ["--weights", weights, "--num-samples", 4, "--seed", 0, "--steps", 3]
    assert cli("sample", *words, "--out", drawn)[0] == 0
    status, out, err = cli("evaluate", "--samples", drawn, *training)
    assert status == 0, err
    assert "samples (4 images) against training images (9)" in out and "told from training images" in out
    drawn.write_bytes(drawn.read_bytes()[:70])
    for name in (drawn, tmp_path / f"gone{suffix}"):
        status, _, err = cli("evaluate", "--samples", name, *training)
        assert status == 1 and name.name in err and err.startswith("Error: "), err


def test_evaluate_reads_the_training_images_at_the_height_and_width_of_the_samples(cli, rd, tmp_path):
    from rust_diffusion.cli import outputs

    outputs.write(tmp_path / "training", rd.phantoms(6, size=32, seed=1))
    np.save(tmp_path / "wide.npy", rd.phantoms(6, size=32)[:, :, :16].numpy())
    status, out, err = cli("evaluate", "--samples", tmp_path / "wide.npy", "--data", tmp_path / "training")
    assert status == 0 and "samples (6 images) against training images (6)" in out, err
    words = ["--samples", tmp_path / "wide.npy", "--data", "phantoms:9", "--size", 32]
    status, _, err = cli("evaluate", *words)
    assert status == 2 and "--size" in err and "wide.npy, 16 x 32" in err


def test_held_out_images_have_a_cache_of_their_own(cli, rd, tmp_path):
    from rust_diffusion.cli import outputs

    for name, seed in (("a", 1), ("b", 2)):
        outputs.write(tmp_path / name, rd.phantoms(3, size=16, seed=seed))
    words = ["--data", tmp_path / "a", "--val-data", tmp_path / "b", "--cache", tmp_path / "set.cache"]
    run = [*TRAIN[:1], *words, *TRAIN[3:], "--out", tmp_path / "run", "--device", "cpu"]
    assert cli(*run)[0] == 0
    caches = [tmp_path / "set.cache", tmp_path / "set-val-data.cache"]
    before = [path.stat().st_mtime_ns for path in caches]
    assert cli(*run, "--force-restart")[0] == 0
    assert [path.stat().st_mtime_ns for path in caches] == before, "neither was made anew"


def test_a_run_ended_by_max_steps_says_what_goes_on(cli, tmp_path):
    run = [*TRAIN, "--lr-schedule", "constant", "--device", "cpu", "--out", tmp_path, "--max-steps"]
    _, out, _ = cli(*run, 2)
    assert "--max-steps 2 reached; saved" in out and "same c" not in out
    _, out, _ = cli(*run, 2)
    assert "has its 2 updates. To go on from there say a larger --max-steps; another --name, another" in out
    assert "--out or --force-restart begins anew" in out


def test_warnings_are_lines_without_source(tmp_path):
    words = ["-m", "rust_diffusion", *TRAIN, "--objective", "eps", "--device", "cpu", "--out", tmp_path]
    done = run_python(*words)
    warned = [line for line in done.stderr.splitlines() if "are few for --objective eps" in line]
    assert len(warned) == 1 and warned[0].startswith("Warning: 6 updates are few"), done.report
    assert "UserWarning" not in done.stderr and ".py:" not in done.stderr, done.report


def test_precision_reaches_the_sampler(cli, weights, tmp_path):
    drawn = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / f"{precision}.npy"
        words = ["--weights", weights, "--seed", 0, "--precision", precision, "--out", out]
        assert cli("sample", *words)[0] == 0
        drawn[precision] = np.load(out)
    assert not np.array_equal(drawn["fp32"], drawn["bf16"])
    assert cli("sample", "--weights", weights, "--precision", "banana", "--out", tmp_path / "x.npy")[0] == 2


def test_train_takes_validation_data_and_says_how_to_read_images(cli, tmp_path):
    images.dicom(tmp_path / "a.dcm", np.arange(32 * 32, dtype=np.uint16).reshape(32, 32))
    words = [
        "--data",
        tmp_path,
        "--window",
        "-600,1500",
        "--val-data",
        "phantoms:3",
        "--log-dir",
        tmp_path / "log",
    ]
    status, out, err = cli(*TRAIN, *words, "--channels", 1, "--out", tmp_path / "run")
    assert status == 0, err
    assert re.search(r"^epoch 1/\d+  loss \d\.\d+  validation \d\.\d+  lr ", out, re.MULTILINE), out
    table = (tmp_path / "log" / "DDPMDenoiser.csv").read_text().splitlines()
    row = dict(zip(table[0].split(","), table[1].split(","), strict=True))
    assert float(row["val_loss"]) > 0


def test_info_says_what_is_linked(cli):
    status, out, _ = cli("info")
    assert status == 0 and re.search(
        rf"^linked with torch +{'.'.join(torch.__version__.split('.')[:2])}\.", out, re.MULTILINE
    )
    assert re.search(rf"^torch threads +{torch.get_num_threads()}$", out, re.MULTILINE)


def test_info_says_which_kernels_are_used(cli, monkeypatch):
    """torch's instruction set is not theirs."""
    from rust_diffusion import _native

    monkeypatch.setattr(_native, "kernels", lambda: "AVX-512")
    out = cli("info")[1]
    assert re.search(r"^kernels +AVX-512$", out, re.MULTILINE)
    assert re.search(rf"^torch's kernels +{torch.backends.cpu.get_cpu_capability()}$", out, re.MULTILINE)


@pytest.mark.parametrize("name", ["DDPMDenoiser.pth", "DDPMDenoiser.ckpt", "", "shared"])
def test_info_shows_what_a_file_says_of_its_model(cli, weights, rd, tmp_path, name):
    place = weights / name
    if name == "shared":
        place = rd.load(weights).save_pretrained(tmp_path / "shared")
    status, out, err = cli("info", "--weights", place)
    model = rd.load(place)
    assert status == 0, err
    assert re.search(rf"^parameters +{sum(p.numel() for p in model.parameters()):,}$", out, re.MULTILINE)
    assert re.search(r"^architecture +DiffusionUNet\(.*base_ch=8.*num_heads=2.*\)$", out, re.MULTILINE)
    assert model.config["dropout"] == 0.0 and "dropout=0.0" in out and "assumed)" not in out
    for row in model.card.rows():
        assert re.search(" +".join(map(re.escape, filter(None, row))), out), row
    assert re.search(r"^schedule +cosine, T = 12 +stated$", out, re.MULTILINE)
    assert cli("info", "--weights", tmp_path / "nowhere")[0] == 1


def test_info_says_what_bare_weights_leave_open(cli, weights, tmp_path):
    state = torch.load(weights / "DDPMDenoiser.pth", weights_only=True)
    torch.save(dict(state), tmp_path / "bare.pth")
    _, out, err = cli("info", "--weights", tmp_path / "bare.pth")
    assert re.search(r"^architecture .*num_heads and dropout are assumed$", out, re.MULTILINE), err


def test_info_knows_the_heads_of_a_network_of_diffusers(cli, rd, tmp_path):
    model = rd.UNet2DModel(**TINY_UNET2D)
    model.betas = rd.linear_beta_schedule(10)
    status, out, err = cli("info", "--weights", model.save_pretrained(tmp_path, format="diffusers"))
    assert status == 0, err
    assert re.search(r"^architecture +UNet2DModel\(.*\)$", out, re.MULTILINE)


TYPED = {
    "take ema_warmup=True, ema_decay=0.464 or less": "take --ema-warmup, --ema-decay 0.464 or less",
    "with epochs=, another name= or weights_dir=.": "with --epochs, another --name or --out.",
    "channel_mults=(1, 2, 4), objective='v'; betas=3": "--channel-mults 1,2,4, --objective v; betas=3",
    "no horizontal_flip=False, but sample_steps=7.": "no --no-horizontal-flip, but --sample-steps 7.",
    "learning_rate=1e-05, x.epochs=3 and /a/name=b": "--learning-rate 1e-05, x.epochs=3 and /a/name=b",
    "min_snr_gamma=None; max_steps must be 1": "no --min-snr-gamma; max_steps must be 1",
    "image_size=(1, 2) makes images": "--size 1,2 makes images",
    "sample_steps must be at least 1, got 0": "--sample-steps must be at least 1, got 0",
}


@pytest.mark.parametrize("said", TYPED)
def test_advice_is_in_words_of_the_command_line(said):
    from rust_diffusion.cli.main import in_options

    assert in_options(said) == TYPED[said]


def test_every_option_says_what_it_is_for():
    from rust_diffusion.cli import cli

    for command in cli.commands.values():
        for option in command.params:
            assert option.help, f"{command.name} {option.name}"


def test_quick_demo_leaves_everything_it_names(cli, tmp_path):
    status, out, err = cli("demo", "--quick", "--out", tmp_path / "demo")
    assert status == 0, err
    report = (tmp_path / "demo" / "report.md").read_text()
    for name in re.findall(r"`([\w./]+)`", report.split("To draw more")[0]):
        assert (tmp_path / "demo" / name).exists(), name
    assert str(tmp_path / "demo") in out
    again = cli("demo", "--quick", "--out", tmp_path / "demo")
    assert again[0] == 0, "it can be repeated"


WRONG = [
    (["sample", "--weights", "nowhere.pth", "--out", "x.png"], 1, "nowhere.pth"),
    (["sample", "--weights", "{weights}", "--out", "x.bmp"], 1, ".png, .npy, .pt or .gif"),
    (["sample", "--weights", "{weights}", "--out", "no/such/folder/x.png"], 1, "no/such/folder"),
    (["sample", "--weights", "{weights}", "--steps", "99", "--out", "x.png"], 1, "--sample-steps must"),
    (["sample", "--weights", "{weights}", "--num-samples", "0", "--out", "x.png"], 1, "--num-samples must"),
    (
        ["sample", "--weights", "{weights}", "--sampler", "ddim", "--eta=-1", "--out", "x.png"],
        1,
        "--eta must",
    ),
    (
        ["sample", "--weights", "{weights}", "--sampler", "ddpm", "--eta", "1", "--out", "x.png"],
        2,
        "only for",
    ),
    (["sample", "--weights", "{weights}", "--sampler", "rk45", "--out", "x.png"], 2, "rk45"),
    (["sample", "--weights", "{weights}", "--num-heads", "3", "--out", "x.png"], 1, "num_heads"),
    (["sample", "--weights", "{weights}", "--device", "tpu", "--out", "x.png"], 1, "device"),
    (["sample", "--weights", "{weights}", "--size", "17", "--out", "x.png"], 1, "--size 17,17 makes images"),
    (["sample", "--out", "x.png"], 2, "--weights"),
    ([*TRAIN, "--out", "run", "--channel-mults", "1,two"], 2, "1,two"),
    ([*TRAIN, "--out", "run", "--size", "17"], 1, "multiple"),
    ([*TRAIN, "--out", "run", "--size", "16,24"], 2, "phantoms are square, and the size is 16 x 24"),
    ([*TRAIN, "--out", "run", "--size", "16,0"], 2, "16,0"),
    ([*TRAIN, "--out", "run", "--size", "16,24,32"], 2, "16,24,32"),
    ([*TRAIN, "--out", "run", "--epochs", "0"], 1, "--epochs must"),
    ([*TRAIN, "--out", "run", "--learning-rate", "nan"], 1, "--learning-rate must"),
    ([*TRAIN, "--out", "run", "--num-steps", "0"], 1, "--num-steps must"),
    ([*TRAIN, "--out", "run", "--data", "no-such-folder"], 1, "no-such-folder"),
    ([*TRAIN, "--out", "run", "--data", "phantoms:many"], 2, "phantoms:many"),
    ([*TRAIN, "--out", "run", "--no-such-option"], 2, "--no-such-option"),
    ([*TRAIN, "--out", "run", "--val-data", "no-such-folder"], 1, "--val-data no-such-folder: "),
    (["sample", "--weights", "{weights}", "--num-steps", "99", "--out", "x.png"], 2, "--steps"),
    (["sample", "--weights", "{weights}", "--out", "/proc/x.png"], 1, "/proc/x.png"),
    (
        ["evaluate", "--weights", "{weights}", "--data", "phantoms:9", "--num-samples", "2"],
        2,
        "--num-samples",
    ),
    (["evaluate", "--samples", "phantoms:9", "--data", "phantoms:9", "--eta", "1"], 2, "only with --weights"),
    (
        ["evaluate", "--samples", "phantoms:9", "--data", "phantoms:9", "--batch-size", "1"],
        2,
        "--batch-size: only",
    ),
    (["evaluate", "--samples", "phantoms:9", "--data", "phantoms:9", "--out", "x.jpg"], 2, ".png"),
    (["dance"], 2, "dance"),
]


@pytest.mark.parametrize("words, expected, message", WRONG, ids=[" ".join(w[-4:]) for w, _, _ in WRONG])
def test_a_mistake_is_one_line_and_a_status(cli, weights, tmp_path, monkeypatch, words, expected, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = cli(*(word.format(weights=weights) for word in words))
    assert status == expected and message in err, err
    assert "Traceback" not in out + err
    if expected == 1:
        assert len(err.strip().splitlines()) == 1 and err.startswith("Error: ")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing was written"


@pytest.mark.parametrize("where", ["before", "after"])
def test_debug_shows_the_traceback(cli, where):
    words = ["sample", "--weights", "nowhere.pth", "--out", "x.png"]
    words = ["--debug", *words] if where == "before" else [*words, "--debug"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cli(*words)


def test_python_dash_m_and_the_exit_status(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rust_diffusion", "sample", "--weights", "nowhere", "--out", "x.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_an_interrupt_ends_in_130(cli, monkeypatch):
    from rust_diffusion.cli import info

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "about", interrupted)
    status, _, err = cli("info")
    assert status == 130 and err.strip() == "Interrupted."
