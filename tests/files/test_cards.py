"""What a model knows about itself: how sure it is, and that every file keeps it."""

import copy
import pickle
import re
import warnings

import pytest
import torch

from rust_diffusion import operators
from tools import TINY, TINY_UNET2D, slices

FIELDS = {"objective", "betas", "image_size", "value_range", "data_variance", "initial_share", "trained_with"}


@pytest.fixture
def model(rd):
    torch.manual_seed(0)
    return rd.DiffusionUNet(base_ch=8, channel_mults=(1, 2), attn_levels=(), time_dim=8, num_heads=2)


@pytest.fixture(scope="module")
def trained(rd, tmp_path_factory):
    """(data, folder, result) of a run that knows everything about itself."""
    folder, data = tmp_path_factory.mktemp("trained"), slices(8, size=8)
    torch.manual_seed(0)
    options = dict(epochs=2, batch_size=4, objective="x0", ema_decay=0.5, device="cpu", progress=False)
    result = rd.train(
        rd.DiffusionUNet(**TINY), data, betas=rd.linear_beta_schedule(7), weights_dir=folder, **options
    )
    return data, folder, result


def sure(card):
    return {name: card.certainty(name) for name in FIELDS}


def test_a_new_model_assumes_what_the_course_does_and_knows_no_more(model):
    assumed = {name for name, certainty in sure(model.card).items() if certainty == "assumed"}
    assert assumed == {"objective", "value_range"}
    assert model.objective == "eps" and model.betas is None and model.image_size is None


def test_what_is_set_on_the_model_is_stated_on_its_card(rd, model):
    model.objective, model.betas, model.image_size = "v", rd.cosine_beta_schedule(5), (8, 8)
    assert model.card.objective == "v" and model.card.image_size == (8, 8) and len(model.card.betas) == 5
    assert {sure(model.card)[name] for name in ("objective", "betas", "image_size")} == {"stated"}
    model.betas = None
    assert model.card.certainty("betas") == "unknown"


def test_a_card_goes_where_its_model_goes(rd, model):
    model.objective = "v"
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.objective == "v" and other.card.certainty("value_range") == "assumed"
        other.objective = "x0"
    assert model.objective == "v"
    assert "card" not in " ".join(model.state_dict()) and "card" not in repr(model)


def test_every_file_of_a_run_knows_what_it_was_trained_for(rd, trained, tmp_path):
    data, folder, result = trained
    variance = (data.double() - data.double().mean(0)).square().mean().item()
    pretrained = result.ema.shadow.save_pretrained(tmp_path / "pretrained")
    places = [folder / "DDPMDenoiser.ckpt", folder / "DDPMDenoiser.pth", folder, pretrained]
    for place in places:
        card = rd.load(place).card
        assert set(sure(card).values()) == {"stated"}, place
        assert card.objective == "x0" and card.image_size == (8, 8) and card.value_range == (-1, 1)
        assert torch.equal(card.betas, rd.linear_beta_schedule(7))
        assert card.data_variance == pytest.approx(variance, rel=1e-9)
        assert card.initial_share == 0.5**4 and "torch" in card.trained_with
    assert rd.load(folder / "DDPMDenoiser_raw.pth").card.certainty("initial_share") == "unknown"


def test_weights_far_from_their_checkpoint_still_know(rd, trained, oracle, tmp_path):
    _, folder, _ = trained
    path = tmp_path / "sent-to-a-friend.pth"
    path.write_bytes((folder / "DDPMDenoiser.pth").read_bytes())
    model = rd.load(path)
    assert model.objective == "x0" and model.image_size == (8, 8) and model.config["num_heads"] == 4
    # and are what the course's notebook loads: a plain state dict, to the letter
    plain = torch.load(path, weights_only=True)
    course = oracle.DiffusionUNet(**TINY)
    assert list(plain) == list(course.state_dict())
    course.load_state_dict(plain, strict=True)
    torch.save(course.state_dict(), path)
    assert rd.load(path).card.certainty("betas") == "assumed"


def test_weights_that_say_nothing_are_told_to_be_taken_for_the_courses(rd, model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    with pytest.warns(UserWarning, match="says nothing .*predicts 'eps', T = 400, images of 64 x 64") as told:
        rd.load(tmp_path / "bare.pth")
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.load(tmp_path / "bare.pth", objective="v")
        rd.load(tmp_path / "bare.pth", betas=rd.linear_beta_schedule(9))


def test_an_objective_against_what_the_file_says_is_warned_of(rd, trained):
    with pytest.warns(
        UserWarning, match=r"says that its model predicts 'x0'; taken for one that predicts 'v'"
    ):
        assert rd.load(trained[1], objective="v").objective == "v"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.load(trained[1], objective="x0")


def test_what_was_assumed_is_still_assumed_after_saving(rd, model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    bare = rd.load(tmp_path / "bare.pth")
    guessed = {"objective", "betas", "image_size", "value_range"}
    assert {name for name in FIELDS if bare.card.certainty(name) == "assumed"} == guessed
    again = rd.load(bare.save_pretrained(tmp_path / "again"))
    assert sure(again.card) == sure(bare.card)
    stated = rd.load(bare.save_pretrained(tmp_path / "stated", betas=rd.linear_beta_schedule(9)))
    assert stated.card.certainty("betas") == "stated" and len(stated.betas) == 9
    assert stated.card.certainty("image_size") == "assumed"
    assert rd.load(tmp_path / "bare.pth", objective="v").card.certainty("objective") == "stated"


def test_loaded_averages_of_a_short_run_are_told_from_trained_ones(rd, tmp_path):
    options = dict(betas=rd.cosine_beta_schedule(7), epochs=1, device="cpu", progress=False)
    rd.train(rd.DiffusionUNet(**TINY), slices(2), weights_dir=tmp_path, **options)
    with pytest.warns(UserWarning, match="still the random ones"):
        loaded = rd.load(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded.sample(1, sample_steps=2, progress=False)  # told once


@pytest.mark.parametrize("kind", ["tensor", "levels", "loader", "batches"])
def test_the_variance_of_the_data_is_measured_whatever_their_form(rd, kind):
    images = slices(10, size=8)
    levels = ((images + 1) * 127.5).round().to(torch.uint8)
    data = {
        "tensor": images,
        "levels": levels,
        "loader": torch.utils.data.DataLoader(images, batch_size=3, shuffle=True),
        "batches": [images[:6], images[6:]],
    }[kind]
    seen = levels.double() / 127.5 - 1 if kind == "levels" else images.double()
    model = rd.DiffusionUNet(**TINY)
    options = dict(betas=rd.cosine_beta_schedule(7), epochs=1, batch_size=4, device="cpu", progress=False)
    result = rd.train(model, data, **options)
    expected = (seen - seen.mean(0)).square().mean().item()
    assert model.card.data_variance == pytest.approx(expected, rel=1e-6)
    assert result.ema.shadow.card.data_variance == model.card.data_variance


def test_the_variance_is_that_of_gaussian_images():
    from rust_diffusion.data.variance import DataVariance

    mean, variance = torch.linspace(-0.5, 0.5, 64).view(1, 8, 8), DataVariance()
    assert variance.value() is None
    for _ in range(20):
        variance.add(mean + 0.3 * torch.randn(200, 1, 8, 8))
    assert variance.value() == pytest.approx(0.09, rel=0.02)
    variance.add(torch.zeros(2, 1, 4, 4))
    assert variance.value() is None, "images of two sizes have no mean image"


def test_a_resumed_run_keeps_its_variance_when_it_sees_other_batches(rd, tmp_path):
    images = slices(8, size=8)

    def fit(epochs, data):
        options = dict(betas=rd.cosine_beta_schedule(7), epochs=epochs, device="cpu", progress=False)
        return rd.train(rd.DiffusionUNet(**TINY), data, weights_dir=tmp_path, **options)

    before = fit(1, [images]).ema.shadow.card.data_variance
    assert fit(2, [images * 0.1]).ema.shadow.card.data_variance == before > 0


def test_the_table_says_each_thing_and_how_sure_it_is(rd, trained, model):
    _, _, result = trained
    text = repr(result.ema.shadow.card)
    for row in ("objective +x0 +stated", r"schedule +linear, T = 7 +stated", "value range +-1 to 1 +stated"):
        assert re.search(row, text), text
    assert text.count("stated") == len(FIELDS) and "unknown" not in text
    model.betas = torch.rand(5) * 0.1 + 0.01
    assert "custom" in repr(model.card) and repr(model.card).count("unknown") == 4


def test_averages_of_any_module_say_how_far_they_have_come(rd):
    module = torch.nn.Linear(2, 2)
    ema = rd.EMA(module, decay=0.5)
    ema.update(module)
    assert ema.initial_share == ema.shadow.card.initial_share == 0.5
    assert not hasattr(module, "card")


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "score"},
        {"value_range": [0, 1]},
        {"data_variance": -1.0},
        {"data_variance": "much"},
        {"initial_share": 2.0},
        {"trained_with": 3},
        {"assumed": "betas"},
        {"image_size": [10**9, 1]},
    ],
)
def test_a_card_that_cannot_be_right_is_refused_with_its_file(rd, trained, tmp_path, wrong):
    checkpoint = torch.load(trained[1] / "DDPMDenoiser.ckpt", weights_only=True)
    checkpoint["rust_diffusion"].update(wrong)
    torch.save(checkpoint, tmp_path / "DDPMDenoiser.ckpt")
    [name] = wrong
    with pytest.raises(ValueError, match=rf"DDPMDenoiser\.ckpt.*{name}"):
        rd.load(tmp_path / "DDPMDenoiser.ckpt")
    with pytest.raises(ValueError, match=rf"DDPMDenoiser\.ckpt.*{name}"):
        rd.train(
            rd.DiffusionUNet(**TINY),
            slices(2),
            betas=rd.linear_beta_schedule(7),
            objective="x0",
            weights_dir=tmp_path,
            progress=False,
        )


def test_describing_a_file_reads_no_weights(rd, trained, tmp_path):
    """Their bytes may be anything."""
    from rust_diffusion.files.pretrained import describe

    path = tmp_path / "DDPMDenoiser.ckpt"
    whole = bytearray((trained[1] / path.name).read_bytes())
    weights = torch.load(trained[1] / path.name, weights_only=True)["model"]["mid_block1.conv1.weight"]
    start = whole.find(weights.numpy().tobytes())
    assert start > 0
    whole[start] ^= 1
    path.write_bytes(whole)
    described = describe(path)
    assert described.card.objective == "x0"
    assert sum(p.numel() for p in described.plan().parameters()) == sum(
        p.numel() for p in rd.DiffusionUNet(**TINY).parameters()
    )
    with pytest.raises(ValueError, match="damaged"):
        rd.load(path)


def test_bare_weights_whose_architecture_nobody_says_are_refused(rd, tmp_path):
    torch.save(rd.UNet2DModel(**TINY_UNET2D).state_dict(), tmp_path / "bare.pth")
    with pytest.raises(ValueError, match=r"bare\.pth: .*cannot be read off a bare state dict.*config\.json"):
        rd.load(tmp_path / "bare.pth")


def drawn(rd, sampler, model, betas):
    """Draw by one of the doors through which alpha_bars come in."""
    bars = torch.cumprod(1 - betas, 0)
    if sampler == "ddpm":
        return rd.ddpm_sample(model, 1, (1, 8, 8), betas, 1 - betas, bars, "cpu", seed=0, progress=False)
    if sampler == "daps":
        K = operators.Identity((8, 8))
        y = torch.zeros(1, 1, 8, 8)
        return rd.daps_sample(model, y, K, bars, "cpu", 3, sigma_y=0.1, seed=0, progress=False)
    return getattr(rd, f"{sampler}_sample")(model, 1, (1, 8, 8), bars, "cpu", 3, seed=0, progress=False)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "ddpm", "daps"])
def test_alpha_bars_of_another_schedule_than_the_models_are_told_of(rd, model, sampler):
    model.eval().betas = rd.linear_beta_schedule(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(rd, sampler, model, rd.linear_beta_schedule(40))
    for other in (rd.linear_beta_schedule(20), rd.cosine_beta_schedule(40)):
        with pytest.warns(UserWarning, match=r"not of the schedule that the model was trained with.*T = 40"):
            drawn(rd, sampler, model, other)
    with pytest.warns(UserWarning, match="has 40 timesteps"):
        drawn(rd, sampler, model, rd.linear_beta_schedule(400))


@pytest.mark.parametrize("objective", ["eps", "x0"])
def test_going_back_to_noise_warns_of_nothing(rd, model, objective):
    """There an answer is read at the level before the one that the network is asked about."""
    model.eval().betas, model.objective = rd.linear_beta_schedule(40), objective
    bars, images = torch.cumprod(1 - model.betas, 0), torch.zeros(2, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.ddim_invert(model, images, bars, "cpu", 3, progress=False)
        rd.interpolate(model, images[0], images[1], bars, "cpu", 3, sample_steps=4, progress=False)


def test_a_network_taken_for_flow_is_told_of_no_schedule(rd, model):
    model.eval().betas = rd.linear_beta_schedule(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.flow_sample(model, 1, (1, 8, 8), "cpu", 3, objective="flow", seed=0, progress=False)


def test_a_schedule_that_is_only_assumed_warns_of_nothing(rd, model):
    model.eval().card.assume(betas=rd.linear_beta_schedule(40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(rd, "ddim", model, rd.cosine_beta_schedule(20))
