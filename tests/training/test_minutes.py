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
    _, first = fit(tmp_path / "parts", callback=lambda info: info.epoch < 3, **options)
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


def unsized():
    """Three batches an epoch, which they do not say."""
    return iter(slices(12).split(4))


def test_data_that_do_not_say_how_many_batches_they_have_are_taken(fit, tmp_path, seconds, capfd):
    seconds(1.0)
    told = []
    options = dict(data=unsized, minutes=1, lr_schedule="smooth_cosine", callback=told.append, progress=True)
    _, result = fit(tmp_path, **options)
    updates = own(tmp_path)["plan"]["updates"]
    assert own(tmp_path)["position"]["updates"] == result.updates == updates > 10
    said = "".join(capfd.readouterr())
    assert f"{updates} updates fit into 1 minute" in said, "of epochs nobody knows the number"
    assert "epoch 4:" in said and {info.epochs for info in told} == {None}


def test_a_rate_that_falls_with_epochs_needs_data_that_say_how_many_there_are(fit, tmp_path):
    for schedule in ("cosine", "warmup_cosine"):
        with pytest.raises(
            ValueError, match=rf"^lr_schedule='{schedule}' .*take lr_schedule='smooth_cosine'"
        ):
            fit(tmp_path, data=unsized, minutes=1, lr_schedule=schedule)
    assert not list(tmp_path.glob("*.ckpt"))


class Timed:
    """Batches each of which takes a second of a clock that nothing else moves by itself."""

    def __init__(self, monkeypatch, batches):
        from rust_diffusion.training.plan import budget

        self.batches, self.now, self.given = slices(4 * batches).split(4), 0.0, 0
        monkeypatch.setattr(budget, "clock", lambda: self.now)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.now, self.given = self.now + 1, self.given + 1
            yield batch

    def take(self, seconds):
        self.now += seconds


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("validation", [0, 5])
def test_ends_of_epochs_are_counted_once_and_the_callback_is_one_of_them(
    fit, tmp_path, monkeypatch, sized, validation
):
    from rust_diffusion.training.watch import looks

    data = Timed(monkeypatch, 3)
    monkeypatch.setattr(looks, "validation_loss", lambda *args: data.take(validation) or 1.0)
    options = dict(minutes=5, lr_schedule="constant", callback=lambda info: data.take(10))
    _, result = fit(tmp_path, data if sized else lambda: iter(data), val_data=slices(4), **options)
    assert result.updates == own(tmp_path)["plan"]["updates"]
    assert 0.93 * 300 <= data.now <= 300, "the minutes are used, and kept"


def test_minutes_too_short_for_what_measures_them_are_told(fit, tmp_path, monkeypatch, capfd):
    data = Timed(monkeypatch, 80)
    fit(tmp_path, data, minutes=0.02, progress=True)
    said = "".join(capfd.readouterr())
    assert "Not even the 4 updates (1 epoch) that measure the speed fit into 0.02 minutes: " in said
    assert "they take 0.067 minutes. A larger minutes=" in said and "updates fit into" not in said


def test_averages_of_too_few_minutes_are_warned_of_with_the_runs_own_updates(fit, tmp_path, seconds):
    seconds(1.0)
    with pytest.warns(UserWarning, match=r"averaged weights") as caught:
        fit(tmp_path, data=slices(80), minutes=1, ema_warmup=False, ema_decay=0.999, objective="v")
    updates = own(tmp_path)["plan"]["updates"]
    words = str(caught[0].message)
    assert words.startswith(f"after the {updates} updates of this run 9") and words.endswith(
        "or a larger minutes="
    )


def test_other_batches_leave_the_updates_that_were_settled(fit, tmp_path, seconds):
    seconds(1.0)
    options = dict(data=slices(24), minutes=1, lr_schedule="smooth_cosine", warmup_steps=5)
    fit(tmp_path, callback=lambda info: info.epoch < 2, **options)
    settled = own(tmp_path)["plan"]["updates"]
    with pytest.warns(UserWarning, match="accumulate=1; it goes on with accumulate=3"):
        rates = []
        _, result = fit(tmp_path, accumulate=3, callback=lambda info: rates.append(info.lr), **options)
    assert result.updates == settled and rates[-1] < 1e-4 < rates[0]


def test_fewer_updates_than_were_settled_can_be_asked_for_later(fit, tmp_path, seconds):
    seconds(1.0)
    fit(tmp_path, data=slices(24), minutes=1, callback=lambda info: info.epoch < 2)
    assert own(tmp_path)["plan"]["updates"] > 20
    _, result = fit(tmp_path, data=slices(24), minutes=1, max_steps=20)
    assert result.updates == 20


def test_no_more_than_max_steps_are_planned(fit, tmp_path, seconds):
    seconds(1.0)
    _, result = fit(tmp_path, data=slices(80), minutes=1, max_steps=25)
    assert own(tmp_path)["plan"] == {"minutes": 1.0, "epochs": 2, "updates": 25}
    assert result.updates == 25 and len(result.history) == 2


def test_max_steps_made_before_anything_is_measured_are_the_whole_run(fit, tmp_path, seconds, capfd):
    options = dict(data=slices(80), minutes=1, progress=True)
    seconds(1.0)
    _, result = fit(tmp_path, max_steps=2, **options)
    assert own(tmp_path)["plan"] == {"minutes": 1.0, "epochs": 1, "updates": 2}
    assert (
        result.updates == 2 and len(result.history) == 1 and set(result.paths) == {"checkpoint", "ema", "raw"}
    )
    assert "2 updates (1 epoch) are all, as max_steps says" in "".join(capfd.readouterr())
    _, again = fit(tmp_path, **options)
    assert again.epochs_run == 0
    assert "say epochs= above 1 instead of minutes=" in "".join(capfd.readouterr())
    # from the peak, where the only epoch was, to half of it: no rate rises
    _, longer = fit(tmp_path, data=slices(80), epochs=2)
    assert longer.epochs_run == 1 and longer.updates == 22


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_bar_ends_where_the_run_does(fit, monkeypatch, accumulate):
    from rust_diffusion.training.run import Bar

    told = []
    monkeypatch.setattr(Bar, "settle", lambda bar, epochs, batches: told.append((epochs, batches)))
    data = Timed(monkeypatch, 5)
    _, result = fit(data=data, minutes=1, accumulate=accumulate)
    assert told == [(len(result.history), data.given)]


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
    fit(tmp_path, data=slices(80), minutes=1, progress=True)
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
    fit(tmp_path, minutes=1, callback=lambda info: info.epoch < 3)
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
