"""What passes the checks and is a mistake all the same: `train` says so, and what to do."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from tools import TINY, slices

# "eps" is warned of where there are few updates.
FIXED = dict(epochs=1, batch_size=4, device="cpu", progress=False, ema_warmup=True, objective="v")
FEW = dict(betas=torch.full((5,), 0.5), batch_size=4, device="cpu", progress=False, objective="v")


def forms(images):
    yield "tensor", images
    yield "array", images.numpy()
    yield "loader", DataLoader(images, batch_size=4)
    yield "batches", list(images.split(4))


RANGES = {
    "0 to 1": (lambda x: (x + 1) / 2, r"from 0\S* to 0\.\d+; .*2 \* x - 1"),
    "0 to 1, of chest slices": (lambda x: (x + 1) * 0.3, r"to 0\.5\d+; .*2 \* x - 1"),
    "0 to 1, overshot": (lambda x: (x + 1) * 0.53 - 0.04, r"from -0\.\d+ to 1\.\d+; .*2 \* x - 1"),
    "0 to 3.6": (lambda x: (x + 1) * 1.8, r"to 3\.\d+; .*2 \* \(x - low\).*high=3\."),
    "0 to 50": (lambda x: (x + 1) * 25, r"to 4\d\S+; .*2 \* \(x - low\).*high=4"),
    "twelve bits over sixteen": (lambda x: (x + 1) / 16 - 1, r"to -0\.8\S+, all nearly black.*window"),
    "0 to 255": (lambda x: (x + 1) * 127.5, r"to 25\S+; .*x / 127\.5 - 1.*uint8"),
    "twelve bits": (lambda x: (x + 1) * 2047.5, r"to 40\S+; .*high=40"),
    "Hounsfield units": (lambda x: x * 1000, r"from -9\S+ to 9\S+; .*low=-9"),
}


@pytest.mark.parametrize("case", RANGES)
def test_images_that_are_not_scaled_are_warned_of_in_every_form(rd, oracle, case):
    scale, message = RANGES[case]
    for form, data in forms(scale(slices(8))):
        with pytest.warns(UserWarning, match=rf"^data has values .*{message}") as caught:
            rd.train(rd.DiffusionUNet(**TINY), data, betas=oracle.cosine_beta_schedule(5), **FIXED)
        assert len(caught) == 1 and caught[0].filename == __file__, form


def test_held_out_images_are_looked_at_too(rd, oracle):
    betas, fit = oracle.cosine_beta_schedule(5), {**FIXED, "epochs": 2}
    for form, held_out in (*forms((slices(4) + 1) / 2), ("dataset", rd.ImageSet((slices(4) + 1) / 2))):
        with pytest.warns(UserWarning, match=r"^val_data has values") as caught:
            rd.train(rd.DiffusionUNet(**TINY), slices(4), betas=betas, val_data=held_out, **fit)
        assert len(caught) == 1, form


@pytest.mark.parametrize(
    "images",
    [
        slices(8),
        slices(8) * 1.1,  # what interpolation overshoots
        slices(8) * 0.55 + 0.45,  # bright
        slices(8) * 0.3 - 0.7,  # dark
        slices(8).half(),
        slices(8).bfloat16(),
        torch.full((8, 1, 8, 8), 0.5),
        torch.zeros(8, 1, 8, 8),
        ((slices(8) + 1) * 127).to(torch.uint8),
    ],
    ids=["usual", "overshoot", "bright", "dark", "half", "bfloat16", "one grey", "zero", "uint8"],
)
def test_usual_images_and_schedules_are_not_warned_of(rd, oracle, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for betas in (rd.cosine_beta_schedule(5), rd.linear_beta_schedule(400), torch.full((5,), 0.5)):
            rd.train(rd.DiffusionUNet(**TINY), images, betas=betas, **FIXED)


@pytest.mark.parametrize(
    "turn",
    [lambda b: b.flip(0), lambda b: 1 - b, lambda b: torch.cumprod(1 - b, 0)],
    ids=["reversed", "alphas", "alpha_bars"],
)
@pytest.mark.parametrize("schedule", ["cosine_beta_schedule", "linear_beta_schedule"])
def test_a_schedule_handed_over_the_wrong_way_is_warned_of(rd, turn, schedule):
    with pytest.warns(UserWarning, match=r"^betas fall from .*flip.*alphas.*alpha_bars") as caught:
        rd.train(rd.DiffusionUNet(**TINY), slices(4), betas=turn(getattr(rd, schedule)(10)), **FIXED)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("course", [False, True])
def test_a_resume_with_another_schedule_of_the_same_length_is_refused(rd, oracle, tmp_path, course):
    betas = oracle.cosine_beta_schedule(20)
    run = dict(weights_dir=tmp_path, **{**FIXED, "objective": "eps"})  # the course's
    rd.train(rd.DiffusionUNet(**TINY), slices(4), betas=betas, **run)
    path = tmp_path / "DDPMDenoiser.ckpt"
    if course:  # which does not keep the schedule: nothing can be said
        saved = torch.load(path, weights_only=True)
        del saved["rust_diffusion"]
        torch.save(saved, path)
    before, run = path.read_bytes(), {**run, "epochs": 2}
    if not course:
        with pytest.raises(
            ValueError, match=r"betas is another schedule than .*ckpt was trained with: betas\[19\]"
        ):
            rd.train(rd.DiffusionUNet(**TINY), slices(4), betas=rd.linear_beta_schedule(20), **run)
        assert path.read_bytes() == before
        rd.train(rd.DiffusionUNet(**TINY), slices(4), betas=betas.double() * (1 + 1e-7), **run)
    else:
        rd.train(rd.DiffusionUNet(**TINY), slices(4), betas=rd.linear_beta_schedule(20), **run)
    assert torch.load(path, weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("steps, left", [(50, "0.6"), (200, "0.13")])
def test_a_schedule_that_does_not_end_in_noise_is_warned_of(rd, steps, left):
    betas = rd.linear_beta_schedule(steps)
    with pytest.warns(
        UserWarning, match=f"last of the {steps} timesteps alpha_bar is still {left}"
    ) as caught:
        rd.train(rd.DiffusionUNet(**TINY), slices(8), betas=betas, **FIXED)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # straight paths have a schedule of their own
        rd.train(rd.DiffusionUNet(**TINY), slices(8), betas=betas, **{**FIXED, "objective": "flow"})


def test_held_out_images_of_another_size_are_warned_of(rd):
    fit = dict(betas=torch.full((5,), 0.5), **FIXED)
    with pytest.warns(UserWarning, match="val_data has images of 16 x 16, and data of 8 x 8"):
        rd.train(rd.DiffusionUNet(**TINY), slices(8), val_data=slices(4, size=16), **fit)


def test_samples_that_will_never_be_drawn_are_warned_of(rd, tmp_path):
    fit = dict(betas=torch.full((5,), 0.5), weights_dir=tmp_path, **FIXED)
    with pytest.warns(UserWarning, match="sample_every=2 leaves no samples, as there are only epochs=1"):
        rd.train(rd.DiffusionUNet(**TINY), slices(8), sample_every=2, **fit)


def test_images_and_dropout_of_another_run_are_warned_of(rd, tmp_path):
    fit = dict(betas=torch.full((5,), 0.5), weights_dir=tmp_path, **{**FIXED, "epochs": 3})
    fit |= dict(callback=lambda info: False)
    rd.train(rd.DiffusionUNet(**{**TINY, "dropout": 0.0}), slices(8), **fit)
    with pytest.warns(UserWarning, match="had images of 8 x 8; it goes on with 16 x 16"):
        rd.train(rd.DiffusionUNet(**{**TINY, "dropout": 0.0}), slices(8, size=16), **fit)
    with pytest.warns(UserWarning, match=r"had dropout=0\.0; it goes on with dropout=0\.5"):
        rd.train(rd.DiffusionUNet(**{**TINY, "dropout": 0.5}), slices(8, size=16), **fit)


def test_weights_that_ran_away_are_told_though_the_loss_came_down_again(rd):
    fit = dict(
        betas=torch.full((5,), 0.5), lr_schedule="constant", **{**FIXED, "epochs": 4, "learning_rate": 3.0}
    )
    with pytest.warns(
        UserWarning, match=r"loss of epoch \d was .*, where a network that has learnt nothing"
    ) as caught:
        result = rd.train(rd.DiffusionUNet(**TINY), slices(16), seed=0, **fit)
    assert max(result.history) > 10 and len(caught) == 1


def test_too_few_updates_for_the_average_are_warned_of_before_the_first(rd, oracle, tmp_path):
    said = r"after the 6 updates of this run 100 % of the averaged weights.*ema_warmup=True, ema_decay=0\.464 or less"
    run = dict(betas=oracle.cosine_beta_schedule(5), batch_size=4, weights_dir=tmp_path, device="cpu")
    stop = dict(callback=lambda info: info.epoch < 0, progress=False, objective="v")
    with pytest.warns(UserWarning, match=said) as caught:
        rd.train(rd.DiffusionUNet(**TINY), slices(8), epochs=3, **run, **stop)
    assert len(caught) == 1 and caught[0].filename == __file__
    # what is left of the run decides, and updates are not batches
    with pytest.warns(UserWarning, match="after the 4 updates of this run 100 %"):
        rd.train(rd.DiffusionUNet(**TINY), slices(8), epochs=3, **run, **stop)
    with pytest.warns(UserWarning, match="after the 2 updates of this run 81 %"):
        rd.train(rd.DiffusionUNet(**TINY), slices(8), epochs=2, accumulate=2, ema_decay=0.9, **FEW)


@pytest.mark.parametrize(
    "options, more",
    [
        (dict(epochs=9), "epochs"),
        (dict(epochs=99, max_steps=18), "max_steps"),
        (dict(epochs=9, max_steps=99), "epochs"),
    ],
)
def test_what_makes_a_run_longer_is_what_ended_it(rd, options, more):
    with pytest.warns(UserWarning, match=rf"18 updates .* or a larger {more}=$"):
        rd.train(rd.DiffusionUNet(**TINY), slices(8), callback=lambda info: False, **FEW, **options)


@pytest.mark.parametrize("schedule", ["smooth_cosine", "warmup_cosine"])
def test_a_run_that_ends_while_its_rate_still_rises_is_warned_of(rd, schedule):
    fit = dict(betas=torch.full((5,), 0.5), lr_schedule=schedule, **{**FIXED, "epochs": 20})
    said = (
        r"first warmup_steps=500 updates, and this run has only 40: .* warmup_steps=2, or a larger epochs=$"
    )
    with pytest.warns(UserWarning, match=said) as caught:
        rd.train(rd.DiffusionUNet(**TINY), slices(8), callback=lambda info: False, **fit)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.train(rd.DiffusionUNet(**TINY), slices(8), warmup_steps=39, **fit)


def test_updates_of_more_batches_than_an_epoch_has_are_warned_of(rd):
    fit = dict(betas=torch.full((5,), 0.5), callback=lambda info: False, **FIXED)
    with pytest.warns(
        UserWarning, match=r"^accumulate=3 is more than an epoch's batches, which are 2"
    ) as caught:
        rd.train(rd.DiffusionUNet(**TINY), slices(8), accumulate=3, **fit)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.train(rd.DiffusionUNet(**TINY), slices(8), accumulate=2, **fit)


def test_a_key_for_data_without_dicts_is_warned_of(rd):
    fit = dict(betas=torch.full((5,), 0.5), **FIXED)
    with pytest.warns(UserWarning, match=r"^key='image' .*data gives no dicts") as caught:
        rd.train(rd.DiffusionUNet(**TINY), slices(8), val_data=slices(4), key="image", **fit)
    assert len(caught) == 1


def test_grey_levels_of_a_mask_are_warned_of(rd):
    mask = (slices(8) > 0).to(torch.uint8)
    for form, data in forms(mask):
        with pytest.warns(UserWarning, match="data has grey levels 0 and 1 only.*255") as caught:
            rd.train(rd.DiffusionUNet(**TINY), data, betas=torch.full((5,), 0.5), **FIXED)
        assert len(caught) == 1, form


def test_the_decay_that_is_proposed_is_not_rounded_to_one(rd):
    fit = {**FEW, "batch_size": 1, "epochs": 2500, "ema_decay": 0.9999}
    with pytest.warns(UserWarning, match=r"10000 updates of this run 37 %.* ema_decay=0\.99954 or less"):
        rd.train(rd.DiffusionUNet(**TINY), slices(4), callback=lambda info: False, **fit)


@pytest.mark.parametrize("options", [dict(ema_warmup=True), dict(ema_decay=0.6), dict(data=None)], ids=str)
def test_enough_updates_or_an_unknown_number_of_them_are_not(rd, options):
    data = slices(8)
    if "data" in options:
        options, data = {}, lambda: iter([slices(4)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.train(rd.DiffusionUNet(**TINY), data, epochs=3, **FEW, **options)


@pytest.mark.parametrize(
    "data, options",
    [(slices(8), {}), (lambda: iter(slices(8).split(4)), dict(epochs=9, max_steps=2))],
    ids=["epochs", "max_steps"],
)
def test_a_short_run_for_eps_is_warned_of_what_it_will_not_learn(rd, data, options):
    fit = {**FIXED, "objective": "eps", **options}
    with pytest.warns(UserWarning, match="2 updates are few for objective='eps'") as caught:
        rd.train(rd.DiffusionUNet(**TINY), data, betas=rd.cosine_beta_schedule(10), **fit)
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize(
    "schedule, before, now",
    # after one of two epochs, and after two of six; after three of four updates, and after four of twelve
    [("cosine", "0.0001", "0.00015"), ("smooth_cosine", "2.9e-05", "0.00015")],
)
def test_a_rate_that_rises_again_after_its_end_is_warned_of(rd, tmp_path, schedule, before, now):
    fit = {**FIXED, "lr_schedule": schedule, "warmup_steps": 1, "weights_dir": tmp_path}
    betas = rd.cosine_beta_schedule(10)
    rd.train(rd.DiffusionUNet(**TINY), slices(8), betas=betas, **{**fit, "epochs": 2})
    said = f"had come to its end, {before}, after the 2 epochs planned; it goes on at {now}, as if 6"
    with pytest.warns(UserWarning, match=said) as caught:
        rd.train(rd.DiffusionUNet(**TINY), slices(8), betas=betas, **{**fit, "epochs": 6})
    assert len(caught) == 1 and caught[0].filename == __file__


def test_a_rate_that_had_ended_with_max_steps_is_warned_of(rd, tmp_path):
    fit = {
        **FEW,
        "lr_schedule": "smooth_cosine",
        "warmup_steps": 1,
        "weights_dir": tmp_path,
        "ema_warmup": True,
    }
    rd.train(rd.DiffusionUNet(**TINY), slices(8), max_steps=3, **fit)
    with pytest.warns(
        UserWarning, match="after the 3 updates planned; it goes on at .*, as if 6 had"
    ) as caught:
        rd.train(rd.DiffusionUNet(**TINY), slices(8), max_steps=6, **fit)
    assert len(caught) == 1


def test_a_rate_that_goes_on_as_it_was_is_not(rd, tmp_path):
    """Half of the peak in the second of two epochs, and in the third of four."""
    fit = {**FIXED, "betas": rd.cosine_beta_schedule(10), "weights_dir": tmp_path}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epochs in (2, 4):
            rd.train(rd.DiffusionUNet(**TINY), slices(8), **{**fit, "epochs": epochs})


def test_what_a_run_says_goes_to_the_log_where_there_is_no_bar(rd, tmp_path, caplog, capfd):
    fit = {**FIXED, "weights_dir": tmp_path}
    for _ in range(2):
        with caplog.at_level("INFO", logger="rust_diffusion"):
            rd.train(rd.DiffusionUNet(**TINY), slices(8), betas=rd.cosine_beta_schedule(10), **fit)
    assert ["Training in fp32" in caplog.messages[0], "Nothing to train" in caplog.messages[1]] == [
        True,
        True,
    ]
    assert "a larger epochs=" in caplog.messages[1] and "".join(capfd.readouterr()) == ""


def losses_of_a_run(rd, harder, caught):
    """Train three epochs of 16 updates to say x0, the last on images that are `harder` times as large."""
    data = slices(32)

    def make_harder(info):
        if info.epoch == 1:
            data.mul_(harder)

    options = dict(FEW, batch_size=2, objective="x0", epochs=3, ema_decay=0.5, learning_rate=1e-3, seed=0)
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = rd.train(rd.DiffusionUNet(**TINY), data, callback=make_harder, **options)
    caught += [str(w.message) for w in seen]
    return result.history


def test_a_loss_that_rose_is_told(rd):
    told = []
    history = losses_of_a_run(rd, 3, told)
    assert history[-1] > 2 * min(history)
    assert len(told) == 1
    assert told[0].startswith(f"the loss of the last epoch, {history[-1]:.3g}, is ")
    assert f"that of epoch {history.index(min(history)) + 1}" in told[0] and "learning_rate=0.001" in told[0]


def test_a_last_epoch_of_one_batch_is_not_judged(rd):
    """The third, ended by max_steps, on images that are harder."""
    data = slices(32)

    def make_harder(info):
        if info.epoch == 1:
            data.mul_(3)

    options = dict(FEW, batch_size=2, objective="x0", max_steps=33, ema_decay=0.5, learning_rate=1e-3, seed=0)
    options |= dict(lr_schedule="smooth_cosine", warmup_steps=1, callback=make_harder)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = rd.train(rd.DiffusionUNet(**TINY), data, **options).history
    assert len(history) == 3 and history[-1] > 2 * min(history)
    assert not [w for w in told if "fell apart" in str(w.message)]


def test_a_loss_that_fell_is_not(rd):
    told = []
    history = losses_of_a_run(rd, 1, told)
    assert history[-1] < history[0] and not told
