"""Wrong input: a built-in exception whose message names the argument and what it got."""

import numpy as np
import pytest
import torch

from tools import slices
from wrong import INF, NAN, assert_raises, unet

BUILD = {
    "in_ch zero": (dict(in_ch=0), ValueError, r"in_ch.*0"),
    "in_ch negative": (dict(in_ch=-1), ValueError, r"in_ch.*-1"),
    "base_ch zero": (dict(base_ch=0), ValueError, r"base_ch.*0"),
    "base_ch a float": (dict(base_ch=16.5), TypeError, r"base_ch.*16\.5"),
    "base_ch huge": (dict(base_ch=2**62), (ValueError, MemoryError), r"base_ch|channels"),
    "no levels": (dict(channel_mults=()), ValueError, r"channel_mults"),
    "a level of width zero": (dict(channel_mults=(1, 0)), ValueError, r"channel_mults.*0"),
    "channel_mults a number": (dict(channel_mults=2), TypeError, r"channel_mults.*2"),
    "channel_mults of strings": (dict(channel_mults=("1", "2")), TypeError, r"channel_mults.*1"),
    "too many levels": (dict(channel_mults=(1,) * 100), ValueError, r"channel_mults.*16"),
    "time_dim zero": (dict(time_dim=0), ValueError, r"time_dim.*0"),
    "time_dim negative": (dict(time_dim=-4), ValueError, r"time_dim.*-4"),
    "dropout negative": (dict(dropout=-0.1), ValueError, r"dropout.*-0\.1"),
    "dropout above one": (dict(dropout=1.5), ValueError, r"dropout.*1\.5"),
    "dropout NaN": (dict(dropout=NAN), ValueError, r"dropout.*nan"),
    "dropout text": (dict(dropout="0.1"), TypeError, r"dropout.*0\.1"),
    "dropout True": (dict(dropout=True), TypeError, r"dropout.*True"),
    "dropout False, of NumPy": (dict(dropout=np.False_), TypeError, r"dropout.*False"),
    "num_heads True": (dict(num_heads=True), TypeError, r"num_heads.*True"),
    "attn_levels out of range": (dict(attn_levels=(1, 2)), ValueError, r"attn_levels.*2"),
    "attn_levels negative": (dict(attn_levels=(-1,)), ValueError, r"attn_levels.*-1"),
    "attn_levels a number": (dict(attn_levels=1), TypeError, r"attn_levels.*1"),
    "num_heads zero": (dict(num_heads=0), ValueError, r"num_heads.*0"),
    "num_heads does not divide": (dict(num_heads=5), ValueError, r"num_heads.*5"),
    "num_heads does not divide the middle": (
        dict(base_ch=18, channel_mults=(1,), attn_levels=()),
        ValueError,
        r"num_heads.*4",
    ),
}


@pytest.mark.parametrize("changes, kinds, message", BUILD.values(), ids=BUILD.keys())
def test_a_wrong_configuration_is_refused(world, changes, kinds, message):
    assert_raises(lambda: unet(world, **changes), kinds, message)


FORWARD = {
    "x has three axes": (
        lambda w: w.model(w.x[0], w.t),
        ValueError,
        r"\bx\b.*\(1, 16, 16\)|\bx\b.*\[1, 16, 16\]",
    ),
    "x has other channels": (lambda w: w.model(w.x.expand(2, 3, 16, 16), w.t), ValueError, r"\bx\b.*3"),
    "x is empty": (lambda w: w.model(w.x[:0], w.t[:0]), ValueError, r"\bx\b.*0"),
    "x cannot be halved": (lambda w: w.model(w.x[..., :15], w.t), ValueError, r"\bx\b.*15"),
    "x has no height": (lambda w: w.model(w.x[:, :, :0], w.t), ValueError, r"\bx\b.*0"),
    "x holds integers": (lambda w: w.model(w.x.long(), w.t), (TypeError, ValueError), r"\bx\b.*int64"),
    "x has another dtype": (
        lambda w: w.model(w.x.double(), w.t),
        (TypeError, ValueError),
        r"\bx\b.*(float64|double)",
    ),
    "x is complex": (lambda w: w.model(w.x.cfloat(), w.t), (TypeError, ValueError), r"\bx\b.*complex"),
    "x is on another device": (lambda w: w.model(w.x.to("meta"), w.t), ValueError, r"\bx\b.*meta"),
    "x is sparse": (lambda w: w.model(w.x.to_sparse(), w.t), (TypeError, ValueError), r"\bx\b.*sparse"),
    "x is text": (lambda w: w.model("x", w.t), TypeError, r"\bx\b.*str"),
    "x is None": (lambda w: w.model(None, w.t), TypeError, r"\bx\b.*None"),
    "t has another length": (lambda w: w.model(w.x, torch.tensor([1, 2, 3])), ValueError, r"\bt\b.*3"),
    "t has two axes": (lambda w: w.model(w.x, w.t[None]), ValueError, r"\bt\b.*1, 2"),
    "t is boolean": (
        lambda w: w.model(w.x, torch.tensor([True, False])),
        (TypeError, ValueError),
        r"\bt\b.*bool",
    ),
    "t is on another device": (lambda w: w.model(w.x, w.t.to("meta")), ValueError, r"\bt\b.*meta"),
    "t is a list": (lambda w: w.model(w.x, [0, "a"]), TypeError, r"\bt\b"),
    "t is missing": (lambda w: w.model(w.x), TypeError, r"\bt\b"),
}


@pytest.mark.parametrize("call, kinds, message", FORWARD.values(), ids=FORWARD.keys())
def test_a_wrong_argument_of_the_denoiser_is_refused(world, call, kinds, message):
    assert_raises(lambda: call(world), kinds, message)


CLOSED_FORMS = {
    "cosine of no steps": (lambda w: w.rd.cosine_beta_schedule(0), ValueError, r"num_steps.*0"),
    "cosine of negative steps": (lambda w: w.rd.cosine_beta_schedule(-5), ValueError, r"num_steps.*-5"),
    "cosine of a float": (lambda w: w.rd.cosine_beta_schedule(2.5), TypeError, r"num_steps.*(2\.5|float)"),
    "cosine with s NaN": (lambda w: w.rd.cosine_beta_schedule(10, s=NAN), ValueError, r"\bs\b.*nan"),
    "cosine with s = -1": (lambda w: w.rd.cosine_beta_schedule(10, s=-1.0), ValueError, r"\bs\b.*-1"),
    "linear of no steps": (lambda w: w.rd.linear_beta_schedule(0), ValueError, r"num_steps.*0"),
    "linear with a beta of one and more": (
        lambda w: w.rd.linear_beta_schedule(10, 1e-4, 1.5),
        ValueError,
        r"beta_end.*1\.5",
    ),
    "linear with noise that falls": (
        lambda w: w.rd.linear_beta_schedule(10, 0.02, 1e-4),
        ValueError,
        r"beta_end.*0\.0001",
    ),
    "a schedule longer than any": (
        lambda w: w.rd.cosine_beta_schedule(10**6 + 1),
        ValueError,
        r"num_steps.*1000001",
    ),
    "linear with a negative beta": (
        lambda w: w.rd.linear_beta_schedule(10, -0.1),
        ValueError,
        r"beta_start.*-0\.1",
    ),
    "extract past the end": (
        lambda w: w.rd.extract(w.betas, torch.tensor([12]), (1, 1)),
        ValueError,
        r"\bt\b.*12",
    ),
    "extract below zero": (
        lambda w: w.rd.extract(w.betas, torch.tensor([-1]), (1, 1)),
        ValueError,
        r"\bt\b.*-1",
    ),
    "extract at a fraction": (
        lambda w: w.rd.extract(w.betas, torch.tensor([1.5]), (1, 1)),
        (TypeError, ValueError),
        r"\bt\b.*float",
    ),
    "extract from a matrix": (
        lambda w: w.rd.extract(w.betas[None], w.t, (2, 1)),
        ValueError,
        r"coefficients.*1, 12",
    ),
    "extract for another batch": (lambda w: w.rd.extract(w.betas, w.t, (3, 1)), ValueError, r"x_shape|\bt\b"),
    "extract from a list of text": (lambda w: w.rd.extract(["a"], w.t, (2, 1)), TypeError, r"coefficients"),
    "q_sample with other noise": (
        lambda w: w.rd.q_sample(w.x, w.t, w.x[..., :8], w.alpha_bars),
        ValueError,
        r"noise.*16, 8",
    ),
    "q_sample past the schedule": (
        lambda w: w.rd.q_sample(w.x, torch.tensor([0, 12]), w.x, w.alpha_bars),
        ValueError,
        r"\bt\b.*12",
    ),
    "q_sample of an int image": (
        lambda w: w.rd.q_sample(w.x.long(), w.t, w.x, w.alpha_bars),
        (TypeError, ValueError),
        r"\bx0\b.*int64",
    ),
    "predict_x0 with another prediction": (
        lambda w: w.rd.predict_x0_from_eps(w.x, w.x[:1], w.t, w.alpha_bars),
        ValueError,
        r"eps_pred.*1, 1, 16, 16",
    ),
    "predict_x0 on two devices": (
        lambda w: w.rd.predict_x0_from_eps(w.x, w.x.to("meta"), w.t, w.alpha_bars),
        ValueError,
        r"eps_pred.*meta",
    ),
    "denormalize text": (lambda w: w.rd.denormalize_to_01("x"), TypeError, r"\bx\b.*str"),
    "an array of objects": (
        lambda w: w.rd.denormalize_to_01(np.array([None, "a"], dtype=object)),
        TypeError,
        r"\bx\b.*object",
    ),
}


@pytest.mark.parametrize("call, kinds, message", CLOSED_FORMS.values(), ids=CLOSED_FORMS.keys())
def test_a_wrong_argument_of_schedules_and_closed_forms_is_refused(world, call, kinds, message):
    assert_raises(lambda: call(world), kinds, message)


EMA_CASES = {
    "decay above one": (lambda w: w.rd.EMA(w.model, decay=1.1), ValueError, r"decay.*1\.1"),
    "decay negative": (lambda w: w.rd.EMA(w.model, decay=-0.1), ValueError, r"decay.*-0\.1"),
    "decay NaN": (lambda w: w.rd.EMA(w.model, decay=NAN), ValueError, r"decay.*nan"),
    "no model": (lambda w: w.rd.EMA(None), TypeError, r"model.*None"),
    "another architecture": (
        lambda w: w.rd.EMA(w.model).update(unet(w, base_ch=32)),
        ValueError,
        r"model|shadow",
    ),
    "another depth": (
        lambda w: w.rd.EMA(w.model).update(unet(w, channel_mults=(1,), attn_levels=())),
        ValueError,
        r"model|shadow",
    ),
    "a state without decay": (
        lambda w: w.rd.EMA(w.model).load_state_dict({"shadow": {}}),
        (ValueError, KeyError),
        r"decay",
    ),
    "a foreign shadow": (
        lambda w: w.rd.EMA(w.model).load_state_dict({"decay": 0.9, "shadow": {"a": torch.ones(1)}}),
        (ValueError, RuntimeError),
        r"Missing key|shadow",
    ),
}


@pytest.mark.parametrize("call, kinds, message", EMA_CASES.values(), ids=EMA_CASES.keys())
def test_a_wrong_argument_of_ema_is_refused(world, call, kinds, message):
    assert_raises(lambda: call(world), kinds, message)


def train(world, **changes):
    arguments = dict(data=slices(4), betas=world.betas, epochs=1, batch_size=2, device="cpu", progress=False)
    arguments.update(changes)
    return world.rd.train(unet(world), arguments.pop("data"), **arguments)


def with_value(value):
    images = slices(4)
    images[2, 0, 3, 3] = value
    return images


TRAIN = {
    "no epochs": (dict(epochs=0), ValueError, r"epochs.*0"),
    "epochs a float": (dict(epochs=1.5), TypeError, r"epochs.*1\.5"),
    "batch_size zero": (dict(batch_size=0), ValueError, r"batch_size.*0"),
    "learning_rate negative": (dict(learning_rate=-1e-3), ValueError, r"learning_rate.*-0\.001"),
    "learning_rate NaN": (dict(learning_rate=NAN), ValueError, r"learning_rate.*nan"),
    "weight_decay negative": (dict(weight_decay=-1.0), ValueError, r"weight_decay.*-1"),
    "ema_decay above one": (dict(ema_decay=2.0), ValueError, r"ema_decay.*2"),
    "grad_clip zero": (dict(grad_clip=0.0), ValueError, r"grad_clip.*0"),
    "grad_clip NaN": (dict(grad_clip=NAN), ValueError, r"grad_clip.*nan"),
    "an unknown precision": (dict(precision="int8"), ValueError, r"precision.*int8"),
    "an unknown device": (dict(device="toaster"), ValueError, r"device.*toaster"),
    "betas empty": (dict(betas=torch.zeros(0)), ValueError, r"betas.*0"),
    "betas above one": (dict(betas=torch.tensor([0.1, 1.5])), ValueError, r"betas.*1\.5"),
    "betas NaN": (dict(betas=torch.tensor([0.1, NAN])), ValueError, r"betas.*nan"),
    "betas a matrix": (dict(betas=torch.full((3, 3), 0.1)), ValueError, r"betas.*3, 3"),
    "betas of integers": (dict(betas=torch.tensor([0, 1])), (TypeError, ValueError), r"betas"),
    "no data": (dict(data=slices(4)[:0]), ValueError, r"data.*0"),
    "an empty list": (dict(data=[]), ValueError, r"data.*(empty|no )"),
    "data NaN": (dict(data=with_value(NAN)), ValueError, r"data.*(nan|finite)"),
    "data infinite": (dict(data=with_value(INF)), ValueError, r"data.*(inf|finite)"),
    "data without channels": (dict(data=slices(4)[:, 0]), ValueError, r"data.*4, 8, 8"),
    "data of other channels": (dict(data=slices(4).expand(4, 3, 8, 8)), ValueError, r"data.*3"),
    "data that cannot be halved": (dict(data=slices(4)[..., :7]), ValueError, r"data.*7"),
    "data complex": (dict(data=slices(4).cfloat()), (TypeError, ValueError), r"data.*complex"),
    "data None": (dict(data=None), TypeError, r"data.*None"),
    "data a number": (dict(data=3), TypeError, r"data.*(3|int)"),
    "batches of text": (dict(data=[["a", "b"]]), TypeError, r"data.*(str|list)"),
    "batches with NaN": (
        dict(data=[with_value(NAN)]),
        (ValueError, RuntimeError),
        r"data.*(nan|finite)|loss.*(nan|finite)",
    ),
    "a callback that is none": (dict(callback=3), TypeError, r"callback.*3|callback.*int"),
    "a seed of text": (dict(seed="seven"), TypeError, r"seed.*seven"),
    "a name with a folder in it": (dict(name="../escape"), ValueError, r"name.*escape"),
}


@pytest.mark.parametrize("changes, kinds, message", TRAIN.values(), ids=TRAIN.keys())
def test_a_wrong_argument_of_train_is_refused(world, tmp_path, changes, kinds, message):
    changes = {"weights_dir": tmp_path, **changes}
    assert_raises(lambda: train(world, **changes), kinds, message)
    assert list(tmp_path.iterdir()) == [], "files were written all the same"


def test_train_refuses_what_is_not_a_denoiser(world):
    for model in (None, "model", torch.nn.Linear(2, 2)):
        with pytest.raises((TypeError, ValueError), match="model"):
            world.rd.train(model, slices(4), betas=world.betas, epochs=1, progress=False)


def test_a_weights_folder_that_is_a_file_is_named(world, tmp_path):
    (tmp_path / "file").write_text("")
    assert_raises(lambda: train(world, weights_dir=tmp_path / "file"), OSError, r"file")


def test_a_loss_that_is_not_finite_names_epoch_and_step(world):
    model = unet(world)
    with torch.no_grad():
        model.out_conv.bias.fill_(1e30)  # finite, but its square is not
    assert_raises(
        lambda: world.rd.train(model, slices(4), betas=world.betas, epochs=2, device="cpu", progress=False),
        (RuntimeError, ValueError, ArithmeticError),
        r"loss.*epoch.*step|epoch.*step.*loss",
    )
