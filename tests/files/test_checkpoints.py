"""The files a run leaves: their names and keys, and the exchange of checkpoints with the course's loop."""

import copy
import os

import pytest
import torch
from torch.utils.data import DataLoader

from tools import TINY, flat, relative_l2, same_state, slices

EPOCHS = 4


@pytest.fixture
def betas(oracle):
    return oracle.cosine_beta_schedule(20)


@pytest.fixture
def loader():
    return DataLoader(slices(8), batch_size=4)


def fit(rd, betas, data, folder, model=None, **options):
    torch.manual_seed(1)
    model = model or rd.DiffusionUNet(**TINY)
    fixed = dict(epochs=EPOCHS, batch_size=4, seed=3, device="cpu", precision="fp32", progress=False)
    return model, rd.train(model, data, betas=betas, weights_dir=folder, **{**fixed, **options})


def load(folder, name="DDPMDenoiser.ckpt"):
    return torch.load(folder / name, weights_only=True)


def stop_after(epochs):
    return lambda info: info.epoch + 1 < epochs


def test_a_run_leaves_the_three_files(rd, betas, loader, tmp_path):
    model, result = fit(rd, betas, loader, tmp_path / "new" / "weights", name="Mine")
    folder = tmp_path / "new" / "weights"
    assert sorted(os.listdir(folder)) == ["Mine.ckpt", "Mine.pth", "Mine_raw.pth"]
    checkpoint = load(folder, "Mine.ckpt")
    assert same_state(checkpoint["model"], model.state_dict())
    assert same_state(checkpoint["ema"]["shadow"], result.ema.shadow.state_dict())


def test_without_a_folder_nothing_is_written(rd, betas, loader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(rd, betas, loader, None)
    assert os.listdir(tmp_path) == []


def test_the_checkpoint_has_the_courses_keys_and_layout(rd, oracle, betas, loader, tmp_path):
    fit(rd, betas, loader, tmp_path, learning_rate=3e-4, weight_decay=0.01, ema_decay=0.9, grad_clip=0.5)
    ours = load(tmp_path)
    model = oracle.DiffusionUNet(**TINY)
    options = dict(epochs=EPOCHS, learning_rate=3e-4, weight_decay=0.01, ema_decay=0.9, grad_clip=0.5)
    _, theirs = oracle.course_loop(model, loader, betas, ema=oracle.EMA(model, 0.9), **options)
    assert set(theirs) <= set(ours) and len(set(ours) - set(theirs)) == 1, "the course's keys and one of ours"
    assert ours["epoch"] == theirs["epoch"] == EPOCHS - 1
    assert ours["config"] == theirs["config"]
    assert ours["scaler"] == theirs["scaler"] == {}
    assert ours["ema"]["decay"] == 0.9 and list(ours["ema"]) == ["decay", "shadow"]
    assert ours["history"] and ours["best_loss"] == min(ours["history"])
    assert ours["optimizer"].keys() == theirs["optimizer"].keys()
    [group], [expected] = ours["optimizer"]["param_groups"], theirs["optimizer"]["param_groups"]
    assert group.keys() == expected.keys() and group["params"] == expected["params"]
    assert group["lr"] == pytest.approx(expected["lr"]) and group["initial_lr"] == expected["initial_lr"]
    for index, state in theirs["optimizer"]["state"].items():
        mine = ours["optimizer"]["state"][index]
        assert {k: (v.shape, v.dtype) for k, v in mine.items()} == {
            k: (v.shape, v.dtype) for k, v in state.items()
        }
        assert mine["step"] == state["step"]
    for key in ("T_max", "base_lrs", "last_epoch", "_step_count", "eta_min"):
        assert ours["scheduler"][key] == theirs["scheduler"][key], key


def test_the_best_epoch_is_what_the_weight_files_hold(rd, betas, tmp_path):
    """Epoch 1 is made the best one: from epoch 2 on the data are noise that cannot be denoised as well."""
    images, states = slices(8), []

    def batches():
        epoch = len(states)
        yield images if epoch < 2 else images * 30

    class Fresh:
        def __iter__(self):
            return batches()

        def __len__(self):
            return 1

    model = rd.DiffusionUNet(**TINY)

    def keep(info):
        states.append((copy.deepcopy(model.state_dict()), copy.deepcopy(info.ema.shadow.state_dict())))

    _, result = fit(rd, betas, Fresh(), tmp_path, model=model, callback=keep, learning_rate=1e-3)
    best = result.history.index(min(result.history))
    assert best < EPOCHS - 1, "the data did not do what the test wants"
    assert same_state(load(tmp_path, "DDPMDenoiser_raw.pth"), states[best][0])
    assert same_state(load(tmp_path, "DDPMDenoiser.pth"), states[best][1])
    assert same_state(load(tmp_path)["model"], states[-1][0])
    assert result.best_loss == result.history[best] == load(tmp_path)["best_loss"]


def test_files_are_there_when_the_callback_is_called(rd, betas, loader, tmp_path):
    epochs = []
    fit(
        rd,
        betas,
        loader,
        tmp_path,
        callback=lambda info: epochs.append((info.epoch, load(tmp_path)["epoch"])),
    )
    assert epochs == [(k, k) for k in range(EPOCHS)]


def test_a_run_of_the_course_goes_on_in_train(rd, oracle, betas, loader, tmp_path):
    torch.manual_seed(1)
    theirs = oracle.DiffusionUNet(**TINY)
    ema = oracle.EMA(theirs, decay=0.9995)
    _, begun = oracle.course_loop(theirs, loader, betas, epochs=EPOCHS, ema=ema, stop_after=2)
    torch.save(begun, tmp_path / "DDPMDenoiser.ckpt")
    begun = load(tmp_path)

    ours, result = fit(rd, betas, loader, tmp_path, seed=9)
    torch.manual_seed(9)
    _, finished = oracle.course_loop(theirs, loader, betas, epochs=EPOCHS, ema=ema, resume=begun)
    assert result.history == pytest.approx(finished["history"], rel=1e-4) and len(result.history) == EPOCHS
    assert result.history[:2] == begun["history"] and result.epochs_run == 2
    assert relative_l2(flat(ours.parameters()), flat(theirs.parameters())) <= 1e-3
    assert relative_l2(flat(result.ema.shadow.parameters()), flat(ema.shadow.parameters())) <= 1e-3


def test_a_run_of_train_goes_on_in_the_courses_loop(rd, oracle, betas, loader, tmp_path):
    fit(rd, betas, loader, tmp_path, callback=stop_after(2))
    begun = load(tmp_path)
    assert begun["epoch"] == 1 and begun["config"]["target_epochs"] == EPOCHS
    theirs = oracle.DiffusionUNet(**TINY)
    ema = oracle.EMA(theirs, decay=0.5)
    torch.manual_seed(9)
    _, finished = oracle.course_loop(theirs, loader, betas, epochs=EPOCHS, ema=ema, resume=begun)

    judge = oracle.DiffusionUNet(**TINY)
    judge.load_state_dict(begun["model"])
    del begun["optimizer"]["state"][0]["step"]
    with pytest.raises(Exception, match="step"):  # the moments are really read
        oracle.course_loop(judge, loader, betas, epochs=EPOCHS, ema=oracle.EMA(judge), resume=begun)
    assert len(finished["history"]) == EPOCHS and ema.decay == 0.9995
    assert finished["optimizer"]["state"][0]["step"] == 2 * EPOCHS

    # and back again: the course's loop finished it, so nothing is left to do
    torch.save(finished, tmp_path / "DDPMDenoiser.ckpt")
    model, result = fit(rd, betas, loader, tmp_path)
    assert result.epochs_run == 0 and result.history == pytest.approx(finished["history"])
    assert same_state(model.state_dict(), theirs.state_dict())


def test_weights_without_a_checkpoint_end_training_before_it_begins(rd, betas, loader, tmp_path):
    torch.manual_seed(5)
    found = rd.DiffusionUNet(**TINY)
    torch.save(found.state_dict(), tmp_path / "DDPMDenoiser.pth")
    model, result = fit(rd, betas, loader, tmp_path)
    assert result.epochs_run == 0 and result.history == []
    assert same_state(model.state_dict(), found.state_dict())
    assert same_state(result.ema.shadow.state_dict(), found.state_dict())
    assert os.listdir(tmp_path) == ["DDPMDenoiser.pth"]


def test_a_finished_run_is_not_run_again_unless_forced(rd, betas, loader, tmp_path):
    first, finished = fit(rd, betas, loader, tmp_path)
    again, result = fit(rd, betas, loader, tmp_path)
    assert result.epochs_run == 0 and result.history == finished.history
    assert same_state(again.state_dict(), first.state_dict())
    forced, result = fit(rd, betas, loader, tmp_path, force_restart=True)
    assert result.epochs_run == EPOCHS and same_state(forced.state_dict(), first.state_dict())


def test_more_epochs_than_before_are_run_on_top(rd, betas, loader, tmp_path):
    fit(rd, betas, loader, tmp_path)
    _, result = fit(rd, betas, loader, tmp_path, epochs=EPOCHS + 2)
    assert result.epochs_run == 2 and len(result.history) == EPOCHS + 2
    assert load(tmp_path)["config"]["target_epochs"] == EPOCHS + 2


def test_the_samplers_take_the_saved_weights(rd, betas, loader, tmp_path):
    fit(rd, betas, loader, tmp_path)
    model = rd.DiffusionUNet(**TINY).eval()
    model.load_state_dict(load(tmp_path, "DDPMDenoiser.pth"))
    alpha_bars = torch.cumprod(1 - betas, 0)
    samples = rd.ddim_sample(model, 2, (1, 16, 16), alpha_bars, "cpu", 5, progress=False)
    assert samples.shape == (2, 1, 16, 16) and torch.isfinite(samples).all()


def test_a_checkpoint_of_another_number_of_heads_is_refused(rd, tmp_path):
    """The shapes of its weights fit, and its attention would be another."""
    options = dict(
        betas=rd.cosine_beta_schedule(10), epochs=1, weights_dir=tmp_path, progress=False, device="cpu"
    )
    rd.train(rd.DiffusionUNet(**TINY), slices(2), **options)
    other = rd.DiffusionUNet(**{**TINY, "num_heads": 2})
    with pytest.raises(ValueError, match=r"num_heads=2, but .* was trained with num_heads=4"):
        rd.train(other, slices(2), **{**options, "epochs": 2})


def another_task(rd, betas):
    """What is changed, in words, and how."""
    wider = rd.DiffusionUNet(**{**TINY, "base_ch": 32})
    yield "architecture", dict(model=wider)
    yield "num_heads", dict(model=rd.DiffusionUNet(**{**TINY, "num_heads": 2}))
    yield "schedule", dict(betas=betas[:9])
    yield "objective", dict(objective="x0")


@pytest.mark.parametrize("minutes", [None, 0.01])
def test_a_checkpoint_of_another_task_is_refused_with_a_way_out(rd, betas, tmp_path, minutes):
    length = dict(epochs=1) if minutes is None else dict(minutes=minutes)
    fixed = dict(betas=betas, weights_dir=tmp_path, objective="v", batch_size=4, device="cpu", progress=False)
    rd.train(rd.DiffusionUNet(**TINY), slices(8), **fixed, **length)
    before = (tmp_path / "DDPMDenoiser.ckpt").read_bytes()
    ran = "" if minutes is None else r" \(it is of a run with minutes=0\.01, which recipes go by\)"
    for what, changed in another_task(rd, betas):
        options = {"model": rd.DiffusionUNet(**TINY), **fixed, **length, **changed}
        end = rf"\. Take that {what}{ran}, another name= or weights_dir=, or force_restart=True$"
        with pytest.raises(ValueError, match=rf"DDPMDenoiser\.ckpt.*{end}"):
            rd.train(data=slices(8), **options)
    assert (tmp_path / "DDPMDenoiser.ckpt").read_bytes() == before


def test_weights_of_another_architecture_are_refused_with_a_way_out(rd, betas, loader, tmp_path):
    torch.save(rd.DiffusionUNet(**{**TINY, "base_ch": 32}).state_dict(), tmp_path / "DDPMDenoiser.pth")
    with pytest.raises(ValueError, match=r"Take that architecture, another name= or weights_dir=, or force"):
        fit(rd, betas, loader, tmp_path)


def test_weights_of_another_task_are_refused_by_what_their_file_says(rd, betas, loader, tmp_path):
    fixed = dict(objective="v", epochs=1, ema_decay=0.9)
    fit(rd, betas, loader, tmp_path, **fixed)
    (tmp_path / "DDPMDenoiser.ckpt").unlink()
    tasks = dict(another_task(rd, betas), schedule=dict(betas=rd.linear_beta_schedule(20)))
    for what, changed in tasks.items():
        end = rf"\. Take that {what}, another name= or weights_dir=, or force_restart=True$"
        with pytest.raises(ValueError, match=rf"DDPMDenoiser\.pth.*{end}"):
            fit(rd, changed.pop("betas", betas), loader, tmp_path, **{**fixed, **changed})
    with pytest.raises(ValueError, match=r"betas has 9 steps, but .*pth was trained with 20"):
        fit(rd, betas[:9], loader, tmp_path, **fixed)


def test_weights_without_a_checkpoint_keep_what_their_file_says(rd, betas, loader, tmp_path):
    _, first = fit(rd, betas, loader, tmp_path, epochs=1, ema_decay=0.9)
    (tmp_path / "DDPMDenoiser.ckpt").unlink()
    _, result = fit(rd, betas, loader, tmp_path, epochs=1)
    assert result.epochs_run == 0 and result.initial_share == first.initial_share == pytest.approx(0.9**2)
    assert result.ema.shadow.card.initial_share == first.initial_share
    assert result.ema.shadow.image_size == (8, 8)


def test_a_run_that_stops_later_in_its_first_epoch_leaves_its_later_weights(rd, betas, tmp_path):
    for steps in (1, 2):
        _, result = fit(rd, betas, slices(16), tmp_path, max_steps=steps, ema_decay=0.5)
        assert result.history == []
        assert same_state(load(tmp_path, "DDPMDenoiser.pth"), result.ema.shadow.state_dict())
        assert same_state(load(tmp_path, "DDPMDenoiser_raw.pth"), load(tmp_path)["model"])


@pytest.mark.parametrize("plan", [7, {}, {"minutes": "ten"}, {"minutes": 1.0, "updates": 3}])
def test_a_plan_that_cannot_be_used_is_an_error_in_words(rd, betas, loader, tmp_path, plan):
    fit(rd, betas, loader, tmp_path, epochs=1)
    saved = load(tmp_path)
    saved["rust_diffusion"]["plan"] = plan
    torch.save(saved, tmp_path / "DDPMDenoiser.ckpt")
    with pytest.raises(ValueError, match=r"DDPMDenoiser\.ckpt: its part 'rust_diffusion' cannot be used"):
        fit(rd, betas, loader, tmp_path)
