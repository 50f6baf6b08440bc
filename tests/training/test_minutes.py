"""`minutes=`: the first updates are measured, the number that fits is settled, and the run goes on as any other."""

import itertools

import pytest
import torch

from tools import TINY, same_state, slices


@pytest.fixture
def seconds(monkeypatch):
    """seconds(s): from now on each look at the clock finds it s seconds later; an update is one look."""
    from rust_diffusion.training.plan import budget

    def tick(step):
        times = itertools.count()
        monkeypatch.setattr(budget, "clock", lambda: step * next(times))

    return tick


@pytest.fixture
def fit(rd):
    def run(folder=None, data=None, **options):
        torch.manual_seed(1)
        model = rd.DiffusionUNet(**{**TINY, "dropout": 0.1})
        fixed = dict(
            batch_size=4, seed=3, learning_rate=1e-3, device="cpu", precision="fp32", ema_warmup=True
        )
        options = {**fixed, "progress": False, "weights_dir": folder, **options}
        data = slices(10) if data is None else data
        return model, rd.train(model, data, betas=rd.cosine_beta_schedule(20), **options)

    return run


def own(folder):
    return torch.load(folder / "DDPMDenoiser.ckpt", weights_only=True)["rust_diffusion"]


def test_as_many_updates_are_made_as_fit_and_the_run_is_one_of_so_many(fit, tmp_path, seconds):
    seconds(1.0)
    model, result = fit(tmp_path / "minutes", data=slices(80), minutes=1)
    plan = own(tmp_path / "minutes")["plan"]
    # Sixty seconds at one a second, less the margin and what the ends of three epochs take.
    assert 45 <= plan["updates"] <= 59 and plan["epochs"] == len(result.history) == 3
    assert own(tmp_path / "minutes")["position"]["updates"] == plan["updates"]
    same, _ = fit(data=slices(80), epochs=plan["epochs"], max_steps=plan["updates"])
    assert same_state(model.state_dict(), same.state_dict())


def test_twice_the_speed_makes_twice_the_updates(fit, tmp_path, seconds):
    made = []
    for step in (1.0, 0.5):
        seconds(step)
        fit(tmp_path / str(step), data=slices(80), minutes=1)
        made.append(own(tmp_path / str(step))["plan"]["updates"])
    assert 1.8 < made[1] / made[0] < 2.2


@pytest.mark.parametrize("schedule", ["cosine", "smooth_cosine"])
def test_an_interrupted_run_does_what_is_left_bit_for_bit(fit, tmp_path, seconds, schedule):
    options = dict(minutes=1, lr_schedule=schedule, warmup_steps=5)
    seconds(1.0)
    _, whole = fit(tmp_path / "whole", **options)
    seconds(1.0)
    _, first = fit(tmp_path / "parts", callback=lambda info: info.epoch < 8, **options)
    assert 0 < len(first.history) < len(whole.history)
    seconds(7.0)  # another machine, slower: the number is settled
    _, result = fit(tmp_path / "parts", **options)
    assert result.history == whole.history
    assert same_state(result.ema.shadow.state_dict(), whole.ema.shadow.state_dict())
    assert own(tmp_path / "parts")["plan"] == own(tmp_path / "whole")["plan"]
    _, again = fit(tmp_path / "parts", **options)
    assert again.epochs_run == 0


def test_a_run_interrupted_while_it_measures_measures_again(fit, tmp_path, seconds):
    seconds(1.0)
    fit(tmp_path, minutes=1, callback=lambda info: False)
    assert own(tmp_path)["plan"] == {"minutes": 1.0}
    _, result = fit(tmp_path, minutes=1)
    assert (
        own(tmp_path)["position"]["updates"] == own(tmp_path)["plan"]["updates"] and len(result.history) > 1
    )


def test_the_last_epoch_may_be_a_part_of_one_and_ends_all_the_same(fit, tmp_path, seconds):
    seconds(1.0)
    epochs = []
    _, result = fit(tmp_path, data=slices(480), minutes=1, val_data=slices(4, seed=9), callback=epochs.append)
    assert len(result.history) == len(result.val_history) == 1
    assert epochs[0].epochs == 1 and set(result.paths) == {"checkpoint", "ema", "raw"}


def test_data_that_do_not_say_how_many_batches_they_have_are_taken(fit, tmp_path, seconds):
    seconds(1.0)
    fit(tmp_path, data=lambda: iter(slices(12).split(4)), minutes=1)
    assert own(tmp_path)["position"]["updates"] == own(tmp_path)["plan"]["updates"] > 30


def test_files_validation_and_samples_are_reckoned_with(rd, fit, tmp_path, seconds, monkeypatch):
    from rust_diffusion.training.watch import looks

    seconds(1.0)
    fit(tmp_path / "bare", minutes=1)
    slow = looks.validation_loss
    monkeypatch.setattr(
        looks, "validation_loss", lambda *args: [rd_clock() for _ in range(5)] and slow(*args)
    )
    from rust_diffusion.training.plan import budget

    seconds(1.0)
    rd_clock = budget.clock
    fit(tmp_path / "watched", minutes=1, val_data=slices(4), sample_every=2)
    counts = [own(tmp_path / name)["plan"]["updates"] for name in ("bare", "watched")]
    assert counts[1] < 0.7 * counts[0]


def test_what_was_settled_is_said(fit, tmp_path, seconds, capfd):
    seconds(1.0)
    fit(tmp_path, minutes=1, progress=True)
    said = "".join(capfd.readouterr())
    plan = own(tmp_path)["plan"]
    assert f"{plan['updates']} updates ({plan['epochs']} epochs) fit into 1 minute, at 1 in a second" in said
    assert f"epoch {plan['epochs']}/{plan['epochs']}" in said


def test_a_run_too_short_for_its_average_is_warned_of_once_it_is_settled(fit, seconds):
    seconds(1.0)
    with pytest.warns(UserWarning, match="of the averaged weights"):
        fit(minutes=1, ema_decay=0.9999, ema_warmup=False)


def test_epochs_and_minutes_exclude_each_other(fit, tmp_path):
    with pytest.raises(ValueError, match=r"give epochs or minutes, not both: got epochs=3 and minutes=1"):
        fit(minutes=1, epochs=3)
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^minutes must be"):
            fit(minutes=wrong)
    fit(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"minutes=1 is for a run that begins.*epochs="):
        fit(tmp_path, minutes=1)


def test_other_minutes_than_those_settled_for_are_warned_of(fit, tmp_path, seconds):
    seconds(1.0)
    fit(tmp_path, minutes=1, callback=lambda info: info.epoch < 8)
    with pytest.warns(UserWarning, match=r"settled at \d+ updates, for minutes=1; it goes on to those"):
        fit(tmp_path, minutes=2)
    assert own(tmp_path)["plan"]["minutes"] == 1


def test_the_smooth_cosine_falls_with_every_update_to_nothing(rd, fit, tmp_path):
    rates = []
    fit(
        tmp_path, epochs=2, lr_schedule="smooth_cosine", warmup_steps=1, callback=lambda i: rates.append(i.lr)
    )
    # six updates; an epoch tells the rate of its last
    expected = [1e-3 / 2 * (1 + torch.cos(torch.tensor(torch.pi * done / 6)).item()) for done in (2, 5)]
    assert rates == pytest.approx(expected, rel=1e-6)


def test_a_rate_that_falls_with_every_update_must_know_how_many_there_are(fit):
    def batches():
        return iter(slices(8).split(4))

    with pytest.raises(ValueError, match=r"smooth_cosine.*give max_steps or minutes"):
        fit(data=batches, epochs=2, lr_schedule="smooth_cosine")
    _, result = fit(data=batches, epochs=9, max_steps=5, lr_schedule="smooth_cosine")
    assert len(result.history) == 3
