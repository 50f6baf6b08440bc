"""Saving and loading trained models: nothing is lost, nothing unsafe is read, and wrong files are named."""

import inspect
import json
import pickle

import pytest
import torch
from torch import nn

SMALL = dict(base_ch=8, channel_mults=(1, 3), time_dim=10, attn_levels=(1,), num_heads=2, dropout=0.0)


@pytest.fixture
def model(rd):
    model = rd.DiffusionUNet(**SMALL).eval()
    model.betas, model.image_size = rd.cosine_beta_schedule(12), (8, 12)
    return model


def test_a_saved_model_comes_back_whole(rd, model, tmp_path):
    model.objective = "v"
    again = rd.DiffusionUNet.from_pretrained(model.save_pretrained(tmp_path / "new" / "folder"))
    assert again.config == model.config and again.objective == "v" and again.image_size == (8, 12)
    assert torch.equal(again.betas, model.betas) and not again.training
    for (name, before), (other, after) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other and torch.equal(before, after)


@pytest.mark.parametrize("kind", ["cosine", "linear", "custom"])
def test_the_schedule_is_kept_exactly(rd, model, tmp_path, kind):
    betas = {
        "cosine": rd.cosine_beta_schedule(30),
        "linear": rd.linear_beta_schedule(30),
        "custom": torch.rand(30) * 0.5 + 1e-3,
    }[kind]
    model.save_pretrained(tmp_path, betas=betas)
    assert json.loads((tmp_path / "config.json").read_text())["schedule"]["name"] == kind
    assert torch.equal(rd.load(tmp_path).betas, betas)


def test_the_folder_holds_no_pickle(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["value_range"] == [-1, 1] and config["schedule"]["num_steps"] == 12
    assert config["objective"] == "eps" and config["image_size"] == [8, 12]


@pytest.mark.parametrize("sampler, options", [("ddim", {"sample_steps": 4}), ("ddpm", {})])
def test_a_loaded_model_samples_as_before_whatever_the_batch(rd, model, tmp_path, sampler, options):
    model.save_pretrained(tmp_path)
    before = model.sample(5, sampler, seed=3, progress=False, **options)
    loaded = rd.load(tmp_path)
    assert before.shape == (5, 1, 8, 12)
    assert torch.equal(loaded.sample(5, sampler=sampler, seed=3, progress=False, **options), before)
    in_batches = loaded.sample(5, sampler, seed=3, batch_size=2, progress=False, **options)
    # Other batch sizes may round differently, which an untrained network amplifies; the noise is the same.
    assert torch.allclose(in_batches, before, atol=1e-3)
    one_later = loaded.sample(4, sampler, seed=4, progress=False, **options)
    assert torch.allclose(one_later, before[1:], atol=1e-3)


def test_sampling_follows_the_model_it_was_saved_from(rd, model):
    betas = model.betas
    alpha_bars = torch.cumprod(1 - betas, 0)
    expected = rd.ddim_sample(model, 2, (1, 8, 12), alpha_bars, "cpu", 6, seed=1, progress=False)
    assert torch.equal(model.sample(2, "ddim", sample_steps=6, seed=1, progress=False), expected)


def test_the_default_sampler_takes_its_own_steps_or_as_many_as_there_are(rd, model):
    """One definition each: the sampler in `Network.sample`, its steps in the sampler's signature."""
    from rust_diffusion.model.network import DEFAULT_SAMPLER
    from rust_diffusion.sampling.sampler import SAMPLERS

    draw, alpha_bars = SAMPLERS[DEFAULT_SAMPLER], torch.cumprod(1 - model.betas, 0)
    assert inspect.signature(draw).parameters["sample_steps"].default > len(model.betas)
    expected = draw(model, 2, (1, 8, 12), alpha_bars, "cpu", len(model.betas), seed=1, progress=False)
    assert torch.equal(model.sample(2, seed=1, progress=False), expected)


def test_weights_of_the_course_load_with_their_architecture(rd, oracle, tmp_path):
    torch.manual_seed(1)
    course = oracle.DiffusionUNet(
        base_ch=16, channel_mults=(1, 2, 4), time_dim=33, attn_levels=(0, 2), in_ch=3
    )
    torch.save(course.state_dict(), tmp_path / "DDPMDenoiser.pth")
    model = rd.load(tmp_path / "DDPMDenoiser.pth")
    expected = dict(
        in_ch=3, base_ch=16, channel_mults=[1, 2, 4], time_dim=33, attn_levels=[0, 2], num_heads=4
    )
    assert {key: model.config[key] for key in expected} == expected
    assert torch.equal(model.betas, rd.cosine_beta_schedule(400)) and model.image_size == (64, 64)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 250])
    assert torch.allclose(model(x, t), course.eval()(x, t), atol=1e-5)


def test_what_bare_weights_do_not_say_can_be_given(rd, model, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(model.state_dict(), path)
    betas = rd.linear_beta_schedule(9)
    loaded = rd.load(path, num_heads=2, betas=betas, objective="x0", image_size=16)
    assert loaded.config["num_heads"] == 2 and torch.equal(loaded.betas, betas)
    assert loaded.objective == "x0" and loaded.image_size == (16, 16)
    assert loaded.sample(1, sample_steps=2, seed=0, progress=False).shape == (1, 1, 16, 16)


def test_a_course_checkpoint_gives_its_ema_and_its_number_of_steps(rd, model, tmp_path):
    other = rd.DiffusionUNet(**SMALL)
    checkpoint = {
        "model": other.state_dict(),
        "ema": {"decay": 0.9, "shadow": model.state_dict()},
        "config": {"num_diffusion_steps": 30},
    }
    torch.save(checkpoint, tmp_path / "run.ckpt")
    torch.save(other.state_dict(), tmp_path / "run_raw.pth")
    torch.save(model.state_dict(), tmp_path / "run.pth")
    for path in ("run.ckpt", "run.pth", ""):
        loaded = rd.load(tmp_path / path, num_heads=2)
        assert torch.equal(loaded.init.weight, model.init.weight) and len(loaded.betas) == 30
        assert loaded.card.certainty("betas") == "assumed"  # a number of steps is no schedule
    assert torch.equal(rd.load(tmp_path / "run_raw.pth", num_heads=2).init.weight, other.init.weight)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["evil.pth", "evil.ckpt"])
def test_a_strangers_pickle_runs_nothing(rd, tmp_path, name):
    trace = tmp_path / "was-here"
    (tmp_path / name).write_bytes(pickle.dumps({"init.weight": Harmful(trace)}))
    with pytest.raises(ValueError, match=name):
        rd.load(tmp_path / name)
    torch.save({"init.weight": Harmful(trace)}, tmp_path / name)
    with pytest.raises(ValueError, match=name):
        rd.load(tmp_path / name)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half a zip"])
def test_a_file_of_something_else_is_named(rd, tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pth cannot be read as weights"):
        rd.load(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"init.weight": 3}, nn.Linear(2, 3).state_dict(), {"ema": 1}, {"ema": {}}]
)
def test_weights_of_something_else_are_named(rd, tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth"):
        rd.load(tmp_path / "x.pth")


def test_weights_that_lack_a_part_are_named(rd, model, tmp_path):
    weights = model.state_dict()
    del weights["mid_attn.norm.bias"]
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth does not fit.*mid_attn\.norm\.bias"):
        rd.load(tmp_path / "x.pth", num_heads=2)


def test_missing_files_are_file_not_found(rd, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        rd.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        rd.DiffusionUNet.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="found: none"):
        rd.load(tmp_path)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda c: c.update(format="other"), "was not written by save_pretrained"),
        (lambda c: c.update(format_version=2), "format_version 2"),
        (lambda c: c.pop("schedule"), "lacks 'schedule'"),
        (lambda c: c.update(objective="score"), "objective"),
        (lambda c: c.update(value_range=[0, 1]), "value_range"),
        (lambda c: c.update(image_size=[8]), "image_size"),
        (lambda c: c.update(model={"depth": 3}), "does not describe a DiffusionUNet"),
        (lambda c: c.update(model=3), "must be an object"),
        (lambda c: c["model"].update(base_ch=16), "does not fit the architecture"),
        (lambda c: c["schedule"].update(name="sigmoid"), "schedule"),
        (
            lambda c: c.update(schedule={"name": "custom", "num_steps": 3, "betas": [0.1]}),
            "1 betas and says 3",
        ),
    ],
)
def test_a_spoilt_configuration_is_named(rd, model, tmp_path, spoil, message):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    spoil(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        rd.load(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 100])
def test_truncated_safetensors_are_named(rd, model, tmp_path, size):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        rd.load(tmp_path)


def test_a_model_that_knows_no_schedule_says_so(rd, tmp_path):
    model = rd.DiffusionUNet(**SMALL)
    with pytest.raises(ValueError, match="give betas="):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="give betas="):
        model.sample(1)
    with pytest.raises(ValueError, match="give image_size="):
        model.save_pretrained(tmp_path, betas=rd.cosine_beta_schedule(5))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_samples=0), "num_samples"),
        (dict(num_samples=1, sampler="ancestral"), "'ddim', 'ddpm'"),
        (dict(num_samples=1, batch_size=0), "batch_size"),
        (dict(num_samples=1, image_size=7), "multiples of 2"),
        (dict(num_samples=1, sample_steps=13), "sample_steps"),
    ],
)
def test_wrong_arguments_of_sample_are_named(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.sample(**arguments)


@pytest.mark.parametrize("as_loader", [False, True])
def test_what_train_wrote_samples_with_nothing_else(rd, tmp_path, as_loader):
    data = torch.rand(6, 1, 8, 12) * 2 - 1
    batches = torch.utils.data.DataLoader(data, batch_size=3) if as_loader else data
    model = rd.DiffusionUNet(**SMALL)
    result = rd.train(
        model,
        batches,
        betas=rd.linear_beta_schedule(7),
        epochs=1,
        objective="v",
        weights_dir=tmp_path,
        progress=False,
        device="cpu",
    )
    shadow = result.ema.shadow
    expected = shadow.sample(2, seed=0, progress=False)
    assert expected.shape == (2, 1, 8, 12)
    for path in (tmp_path, tmp_path / "DDPMDenoiser.ckpt"):
        loaded = rd.load(path)
        assert loaded.config["num_heads"] == 2 and loaded.objective == "v" and loaded.image_size == (8, 12)
        assert torch.equal(loaded.betas, model.betas)
        assert torch.equal(loaded.sample(2, seed=0, progress=False), expected)
    assert torch.equal(
        rd.load(shadow.save_pretrained(tmp_path / "shared")).sample(2, seed=0, progress=False), expected
    )
