"""The options of `train` beyond the course's loop, against plain loops in PyTorch."""

import csv
import math
import sys
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from tools import TINY, flat, relative_l2, same_state, slices

STEPS = 20  # of the diffusion
FIXED = dict(seed=5, device="cpu", precision="fp32", progress=False)


@pytest.fixture
def betas(oracle):
    return oracle.cosine_beta_schedule(STEPS)


@pytest.fixture
def networks(rd, oracle):
    torch.manual_seed(2)
    theirs = oracle.DiffusionUNet(**TINY)
    ours = rd.DiffusionUNet(**TINY)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def by_hand(
    oracle,
    model,
    batches,
    betas,
    epochs,
    *,
    rates,
    objective="eps",
    gamma=None,
    accumulate=1,
    flip=False,
    decays=None,
):
    """(mean loss of each epoch, shadow) of a loop with one update per `accumulate` batches."""
    alpha_bars = torch.cumprod(1 - betas, 0)
    ema = oracle.EMA(model, 0.9995)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=1e-4)
    history, updates = [], 0
    torch.manual_seed(FIXED["seed"])
    for _ in range(epochs):
        losses = []
        for start in range(0, len(batches), accumulate):
            group = batches[start : start + accumulate]
            images = sum(len(batch) for batch in group)
            optimizer.zero_grad()
            total = 0.0
            for x0 in group:
                if flip:
                    mirrored = torch.randint(2, (len(x0), 1, 1, 1)).bool()
                    x0 = torch.where(mirrored, x0.flip(3), x0)
                t = torch.randint(0, STEPS, (len(x0),))
                noise = torch.randn_like(x0)
                abar = alpha_bars[t].view(-1, 1, 1, 1)
                x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
                v = abar.sqrt() * noise - (1 - abar).sqrt() * x0
                target = {"eps": noise, "x0": x0, "v": v}[objective]
                loss = F.mse_loss(model(x_t, t), target, reduction="none")
                if gamma is not None:
                    snr = abar / (1 - abar)
                    divisor = {"eps": snr, "x0": 1.0, "v": snr + 1}[objective]
                    loss = loss * snr.clamp(max=gamma) / divisor
                loss = loss.mean() * len(x0) / images
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = rates(updates)
            optimizer.step()
            if decays is not None:
                ema.decay = decays(updates)
            ema.update(model)
            updates += 1
            losses += [total] * len(group)
        history.append(sum(losses) / len(losses))
    return history, ema.shadow


def assert_alike(result, ours, expected, theirs):
    history, shadow = expected
    assert result.history == pytest.approx(history, rel=2e-4)
    assert relative_l2(flat(ours.parameters()), flat(theirs.parameters())) <= 1e-3
    assert relative_l2(flat(result.ema.shadow.parameters()), flat(shadow.parameters())) <= 1e-3


@pytest.mark.parametrize(
    "options",
    [
        dict(objective="x0"),
        dict(objective="v"),
        dict(gamma=5.0),
        dict(gamma=0.5, objective="x0"),
        dict(gamma=5.0, objective="v"),
        dict(accumulate=2),
        dict(accumulate=5),
        dict(flip=True),
    ],
    ids=str,
)
def test_options_have_the_meaning_of_their_papers(rd, oracle, betas, networks, options):
    ours, theirs = networks
    batches = list(slices(10).split(4))
    expected = by_hand(oracle, theirs, batches, betas, 4, rates=lambda _: 1e-3, **options)
    names = dict(gamma="min_snr_gamma", flip="horizontal_flip")
    options = {names.get(key, key): value for key, value in options.items()}
    result = rd.train(
        *(ours, batches),
        **dict(betas=betas, epochs=4, learning_rate=1e-3, lr_schedule="constant", **FIXED, **options),
    )
    assert_alike(result, ours, expected, theirs)


def test_the_warm_up_rises_over_updates_and_the_cosine_falls_over_epochs(rd, oracle, betas, networks):
    ours, theirs = networks
    batches = list(slices(12).split(4))

    def rate(update):
        return 1e-3 / 2 * (1 + math.cos(math.pi * (update // 3) / 4)) * min(1.0, (update + 1) / 7)

    expected = by_hand(oracle, theirs, batches, betas, 4, rates=rate)
    schedule = dict(learning_rate=1e-3, lr_schedule="warmup_cosine", warmup_steps=7)
    result = rd.train(ours, batches, betas=betas, epochs=4, **schedule, **FIXED)
    assert_alike(result, ours, expected, theirs)


def test_ema_warmup_forgets_the_initial_weights(rd, oracle, betas, networks):
    ours, theirs = networks
    batches = list(slices(12).split(4))

    def decay(update):
        return min(0.9995, (1 + update) / (10 + update))

    expected = by_hand(oracle, theirs, batches, betas, 4, rates=lambda _: 1e-3, decays=decay)
    options = dict(learning_rate=1e-3, lr_schedule="constant", ema_warmup=True)
    result = rd.train(ours, batches, betas=betas, epochs=4, **options, **FIXED)
    assert_alike(result, ours, expected, theirs)
    assert result.initial_share == pytest.approx(math.prod(decay(k) for k in range(12)))


def test_the_result_tells_how_much_of_the_beginning_is_left(rd, betas, tmp_path):
    run = dict(betas=betas, batch_size=4, ema_decay=0.9, weights_dir=tmp_path, **FIXED)
    result = rd.train(rd.DiffusionUNet(**TINY), slices(8), epochs=3, **run)
    assert result.initial_share == pytest.approx(0.9**6)
    result = rd.train(rd.DiffusionUNet(**TINY), slices(8), epochs=5, **run)
    assert result.initial_share == pytest.approx(0.9**10)


def test_sampling_from_an_average_of_random_weights_warns_once(rd, betas, recwarn):
    alpha_bars = torch.cumprod(1 - betas, 0)

    def sample(model):
        rd.ddim_sample(model, 1, (1, 16, 16), alpha_bars, "cpu", 2, progress=False)
        return [
            str(w.message) for w in recwarn.list if "initial" in str(w.message) or "EMA" in str(w.message)
        ]

    fit = dict(betas=betas, epochs=2, batch_size=4, **FIXED)
    result = rd.train(rd.DiffusionUNet(**TINY), slices(8), ema_decay=0.1, **fit)
    assert sample(result.ema) == []
    result = rd.train(rd.DiffusionUNet(**TINY), slices(8), ema_decay=0.9, **fit)
    recwarn.clear()  # `train` itself warned beforehand
    assert len(sample(result.ema.shadow)) == 1
    assert "66 %" in sample(result.ema)[0] and len(sample(result.ema)) == 1


@pytest.mark.filterwarnings("ignore:after the 2 updates")
def test_an_average_that_never_moved_is_told_from_one_that_was_just_made(rd, betas, tmp_path):
    fit = dict(betas=betas, epochs=1, batch_size=4, objective="v", weights_dir=tmp_path)
    result = rd.train(rd.DiffusionUNet(**TINY), slices(8), ema_decay=1.0, **fit, **FIXED)
    with pytest.warns(UserWarning, match="100 % of these averaged weights"):
        result.ema.shadow.sample(1, sample_steps=2, progress=False)
    with pytest.warns(UserWarning, match="100 % of these averaged weights"):
        rd.load(tmp_path)
    result.ema.shadow.card.initial_share = None  # as of any trained model
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.EMA(result.ema.shadow).shadow.sample(1, sample_steps=2, progress=False)


@pytest.mark.parametrize("objective", ["x0", "v"])
def test_the_samplers_honour_the_objective(rd, betas, objective):
    """All images are the same, so that any sampler that reads the network rightly draws that one."""
    images = torch.full((16, 1, 16, 16), 0.5)
    model = rd.DiffusionUNet(**TINY)
    options = dict(epochs=40, batch_size=8, learning_rate=3e-3, objective=objective)
    rd.train(model, images, betas=betas, **options, **FIXED)
    alpha_bars = torch.cumprod(1 - betas, 0)
    sample = rd.ddim_sample(model.eval(), 2, (1, 16, 16), alpha_bars, "cpu", 10, seed=1, progress=False)
    assert (sample - 0.5).abs().mean() < 0.1


def test_another_objective_than_the_checkpoints_is_an_error(rd, betas, tmp_path):
    run = dict(betas=betas, batch_size=4, weights_dir=tmp_path, **FIXED)
    rd.train(rd.DiffusionUNet(**TINY), slices(4), epochs=1, objective="v", **run)
    with pytest.raises(ValueError, match=r"objective.*'eps'.*DDPMDenoiser\.ckpt.*'v'"):
        rd.train(rd.DiffusionUNet(**TINY), slices(4), epochs=2, **run)


def test_another_schedule_than_the_checkpoints_is_an_error(rd, oracle, betas, tmp_path):
    run = dict(batch_size=4, weights_dir=tmp_path, **FIXED)
    rd.train(rd.DiffusionUNet(**TINY), slices(4), epochs=1, betas=betas, **run)
    with pytest.raises(ValueError, match=r"betas has 7 steps.*DDPMDenoiser\.ckpt.*20"):
        rd.train(rd.DiffusionUNet(**TINY), slices(4), epochs=2, betas=oracle.cosine_beta_schedule(7), **run)


def test_other_numbers_than_the_checkpoints_are_warned_of(rd, betas, tmp_path):
    run = dict(betas=betas, batch_size=4, weights_dir=tmp_path, **FIXED)
    rd.train(rd.DiffusionUNet(**TINY), slices(4), epochs=1, **run)
    with pytest.warns(UserWarning, match=r"learning_rate=0\.0002.*0\.001"):
        rd.train(rd.DiffusionUNet(**TINY), slices(4), epochs=2, learning_rate=1e-3, **run)


OTHERWISE = {
    "batch_size": 2,
    "accumulate": 2,
    "lr_schedule": "warmup_cosine",
    "warmup_steps": 3,
    "ema_warmup": True,
    "horizontal_flip": True,
    "precision": "bf16",
    "seed": 4,
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_done_otherwise_than_before_is_warned_of(rd, betas, tmp_path, name):
    before = dict(batch_size=4, lr_schedule="smooth_cosine", warmup_steps=2, seed=0, precision="fp32")
    run = dict(betas=betas, weights_dir=tmp_path, device="cpu", progress=False, objective="v", ema_decay=0.1)
    run |= dict(epochs=3, callback=lambda info: False)
    rd.train(rd.DiffusionUNet(**TINY), slices(16), **run, **before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.train(rd.DiffusionUNet(**TINY), slices(16), **run, **before)
    with pytest.warns(UserWarning) as caught:
        rd.train(rd.DiffusionUNet(**TINY), slices(16), **run, **{**before, name: OTHERWISE[name]})
    had = before.get(name, {"accumulate": 1}.get(name, False))
    said = (
        "DDPMDenoiser.ckpt began with seed=0; "
        if name == "seed"
        else f"DDPMDenoiser.ckpt had {name}={had!r}; "
    )
    assert len(caught) == 1 and said in str(caught[0].message)


@pytest.mark.parametrize("changed", [dict(batch_size=8), dict(accumulate=2), dict(data=slices(8))], ids=str)
def test_a_rate_goes_on_falling_over_what_is_left_of_another_number_of_updates(rd, betas, tmp_path, changed):
    run = dict(betas=betas, weights_dir=tmp_path, device="cpu", progress=False, objective="v", ema_decay=0.1)
    run |= dict(lr_schedule="smooth_cosine", warmup_steps=2, batch_size=4, learning_rate=1e-3)
    rd.train(rd.DiffusionUNet(**TINY), slices(16), epochs=4, **run)
    rates = []
    run |= dict(epochs=8, callback=lambda info: rates.append(info.lr), **changed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rd.train(rd.DiffusionUNet(**TINY), run.pop("data", slices(16)), **run)
    assert len(rates) == 4 and rates == sorted(rates, reverse=True) and rates[0] > 1e-4 > rates[-1]


def test_what_changes_nothing_is_not(rd, betas, tmp_path):
    run = dict(betas=betas, weights_dir=tmp_path, device="cpu", progress=False, objective="v", ema_decay=0.1)
    batches = list(slices(16).split(4))
    rd.train(rd.DiffusionUNet(**TINY), batches, epochs=1, lr_schedule="constant", **run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # batches have their size, and a constant rate does not rise
        others = dict(batch_size=7, warmup_steps=3, lr_schedule="constant")
        rd.train(rd.DiffusionUNet(**TINY), batches, epochs=2, **run, **others)


def test_the_validation_loss_is_the_error_on_held_out_images(rd, oracle, betas, tmp_path):
    held_out, seen = slices(6, seed=9), []
    model = rd.DiffusionUNet(**{**TINY, "dropout": 0.3})
    fit = dict(betas=betas, epochs=4, batch_size=4, learning_rate=1e-3, **FIXED)
    result = rd.train(model, slices(8), val_data=held_out, callback=seen.append, **fit)
    assert [info.val_loss for info in seen] == result.val_history and len(result.val_history) == 4
    assert model.training

    # The same with all 20 timesteps and much noise, dropout off: what the loss estimates.
    model.eval()
    alpha_bars, errors = torch.cumprod(1 - betas, 0), []
    with torch.no_grad():
        for t in range(STEPS):
            x0, steps = held_out.repeat(4, 1, 1, 1), torch.full((24,), t)
            noise = torch.randn_like(x0)
            errors.append(F.mse_loss(model(oracle.q_sample(x0, steps, noise, alpha_bars), steps), noise))
    assert result.val_history[-1] == pytest.approx(torch.stack(errors).mean().item(), rel=0.5)


def test_validation_does_not_change_the_run(rd, betas):
    def run(**options):
        torch.manual_seed(1)
        model = rd.DiffusionUNet(**{**TINY, "dropout": 0.1})
        rd.train(model, slices(8), betas=betas, epochs=3, batch_size=4, **FIXED, **options)
        return model.state_dict()

    held_out = DataLoader(slices(4, seed=9), batch_size=2, shuffle=True)
    assert same_state(run(), run(val_data=held_out))


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_max_steps_end_the_run_and_it_goes_on_from_there(rd, betas, tmp_path, steps):
    def run(folder, **options):
        torch.manual_seed(1)
        model = rd.DiffusionUNet(**{**TINY, "dropout": 0.1})
        fit = dict(betas=betas, epochs=3, batch_size=4, weights_dir=tmp_path / folder, **FIXED)
        return model, rd.train(model, slices(8), **fit, **options)

    whole, _ = run("whole")
    _, result = run("parts", max_steps=steps)
    checkpoint = torch.load(tmp_path / "parts" / "DDPMDenoiser.ckpt", weights_only=True)
    assert checkpoint["optimizer"]["state"][0]["step"] == steps
    assert len(result.history) == steps // 2
    assert (tmp_path / "parts" / "DDPMDenoiser.pth").exists()
    _, again = run("parts", max_steps=steps)
    assert again.epochs_run == 0
    resumed, _ = run("parts")
    assert same_state(resumed.state_dict(), whole.state_dict())


def test_the_log_has_a_line_per_epoch_and_goes_on(rd, betas, tmp_path):
    def run(epochs):
        fit = dict(betas=betas, epochs=4, batch_size=4, weights_dir=tmp_path, log_dir=tmp_path / "log")
        model, images = rd.DiffusionUNet(**TINY), slices(8)
        stop = dict(callback=lambda info: info.epoch + 1 < epochs)
        return rd.train(model, images, val_data=images, **fit, **stop, **FIXED)

    run(2)
    result = run(4)
    with open(tmp_path / "log" / "DDPMDenoiser.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["loss"]) for row in rows] == result.history
    assert [float(row["val_loss"]) for row in rows] == result.val_history
    assert [int(row["updates"]) for row in rows] == [2, 4, 6, 8]


def test_the_log_goes_to_tensorboard_where_there_is_one(rd, betas, tmp_path, monkeypatch):
    """The package itself is large: its writer is replaced by one that takes notes."""
    notes = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            notes.append((folder, purge_step))

        def add_scalar(self, key, value, epoch):
            notes.append((key, value, epoch))

        def flush(self):
            pass

        def close(self):
            notes.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    fit = dict(betas=betas, epochs=2, batch_size=4, log_dir=tmp_path)
    result = rd.train(rd.DiffusionUNet(**TINY), slices(4), **fit, **FIXED)
    assert notes[0] == (str(tmp_path), 1) and notes[-1] == "closed"
    losses = [note for note in notes if note[0] == "train/loss"]
    assert losses == [("train/loss", loss, epoch) for epoch, loss in enumerate(result.history, start=1)]


def test_auto_says_what_it_picked(rd, betas, capfd):
    fit = dict(betas=betas, epochs=1, batch_size=4, seed=1, device="cpu")
    result = rd.train(rd.DiffusionUNet(**TINY), slices(4), **fit)
    assert result.precision in ("fp32", "bf16") and result.precision in capfd.readouterr().out


def test_fp16_leaves_out_updates_whose_gradient_overflows(rd, betas):
    """Images a thousand times too large: the scaled gradient is beyond float16 until the scale has fallen."""
    fit = dict(betas=betas, epochs=10, batch_size=4, objective="x0", learning_rate=1e-3)
    model = rd.DiffusionUNet(**TINY)
    result = rd.train(model, slices(8) * 1000, **fit, **{**FIXED, "precision": "fp16"})
    assert 1 <= result.skipped_steps < 20 and result.precision == "fp16"
    assert all(math.isfinite(loss) for loss in result.history)
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in model.parameters())


def test_fp16_gives_up_after_many_updates_without_a_gradient(rd, betas, tmp_path):
    model = rd.DiffusionUNet(**TINY)
    with torch.no_grad():
        model.out_conv.weight.mul_(1e9)  # the prediction itself is beyond float16
    before = model.out_conv.weight.clone()
    fit = dict(betas=betas, epochs=2, weights_dir=tmp_path)
    with pytest.raises(RuntimeError, match="epoch 1, step 26"):
        rd.train(model, [slices(2)] * 40, **fit, **{**FIXED, "precision": "fp16"})
    assert torch.equal(model.out_conv.weight, before), "nothing was learnt from what is not finite"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "option", ["force_restart", "horizontal_flip", "ema_warmup", "deterministic", "progress"]
)
def test_a_switch_is_true_or_false_and_no_text(rd, betas, option):
    """A "False" from a configuration file must not replace files."""
    model = rd.DiffusionUNet(**TINY)
    with pytest.raises(TypeError, match=f"{option} must be True or False, got 'False'"):
        rd.train(model, slices(2), betas=betas, epochs=1, **{option: "False"})


@pytest.mark.parametrize("folder", ["", "a\0b"])
def test_a_weights_dir_without_a_usable_name_is_refused(rd, betas, folder):
    with pytest.raises(ValueError, match="weights_dir must be the path of a folder"):
        rd.train(rd.DiffusionUNet(**TINY), slices(2), betas=betas, epochs=1, weights_dir=folder)


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "x" * 201, "x_raw"])
def test_a_name_that_no_file_can_have_or_another_runs_file_has_is_refused(rd, betas, tmp_path, name):
    with pytest.raises(ValueError, match=r"^name must "):
        rd.train(rd.DiffusionUNet(**TINY), slices(2), betas=betas, epochs=1, weights_dir=tmp_path, name=name)


def test_a_run_does_not_depend_on_torchs_default_dtype(rd, betas, networks):
    ours = networks[0]
    start = {name: value.clone() for name, value in ours.state_dict().items()}
    made = []
    for default in (torch.float32, torch.float64):
        ours.load_state_dict(start)
        data, held_out = slices(8, 16), slices(4, 16, seed=1)
        torch.set_default_dtype(default)
        result = rd.train(ours, data, betas=betas, epochs=2, batch_size=4, val_data=held_out, **FIXED)
        made.append((flat(ours.parameters()), result.val_history))
    assert torch.equal(made[0][0], made[1][0]) and made[0][1] == made[1][1]
