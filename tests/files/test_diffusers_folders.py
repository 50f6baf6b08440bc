"""Folders of diffusers, read and written; diffusers itself writes and reads them on the other side."""

import json
import shutil

import pytest
import torch

from tools import max_error

diffusers = pytest.importorskip("diffusers")

TINY = dict(
    sample_size=16,
    block_out_channels=(32, 64),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=8,
    attention_head_dim=None,
    downsample_padding=0,
)


@pytest.fixture
def theirs():
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**TINY).eval()


def same(model, theirs):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    with torch.no_grad():
        return max_error(model(x, t), theirs(x, t).sample) <= 1e-5


def pipeline(unet, **scheduler):
    return diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(**scheduler))


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_a_network_of_diffusers_loads(rd, theirs, tmp_path, safe):
    theirs.save_pretrained(tmp_path, safe_serialization=safe)
    model = rd.load(tmp_path)
    assert isinstance(model, rd.UNet2DModel) and not model.training
    assert same(model, theirs)
    assert model.image_size == (16, 16)
    # nothing says which schedule: the family's own is assumed
    assert len(model.betas) == 1000 and model.card.certainty("betas") == "assumed"
    assert rd.DiffusionUNet.from_pretrained(tmp_path).config == model.config


@pytest.mark.parametrize(
    "said, objective",
    [
        (dict(beta_schedule="linear", num_train_timesteps=500), "eps"),
        (dict(beta_schedule="scaled_linear", prediction_type="v_prediction"), "v"),
        (dict(beta_schedule="squaredcos_cap_v2", prediction_type="sample"), "x0"),
        (dict(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3), "eps"),
    ],
)
def test_a_pipeline_brings_its_schedule(rd, theirs, tmp_path, said, objective):
    made = pipeline(theirs, **said)
    made.save_pretrained(tmp_path)
    model = rd.load(tmp_path)
    assert same(model, theirs)
    assert model.objective == objective
    # the cosine is computed in another order there, and kept above 1e-5 here
    assert torch.allclose(model.betas, made.scheduler.betas, rtol=2e-4, atol=1.1e-5)
    assert model.card.certainty("betas") == "stated"


def test_old_names_of_attention_are_understood(rd, theirs, tmp_path):
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    path = tmp_path / "diffusion_pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name):
        for new, before in old.items():
            name = name.replace(f"{new}.", f"{before}.")
        return name

    torch.save({renamed(name): tensor for name, tensor in weights.items()}, path)
    assert any("query" in name for name in torch.load(path, weights_only=True))
    assert same(rd.load(tmp_path), theirs)


@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
def test_what_is_saved_for_diffusers_runs_there(rd, tmp_path, objective):
    torch.manual_seed(1)
    model = rd.UNet2DModel(**TINY).eval()
    model.objective = objective
    model.betas = rd.cosine_beta_schedule(20)
    model.save_pretrained(tmp_path, format="diffusers")
    assert same(model, diffusers.UNet2DModel.from_pretrained(tmp_path).eval())
    made = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    made.set_progress_bar_config(disable=True)
    images = made(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 16, 16, 3)
    assert torch.equal(made.scheduler.betas, model.betas)
    again = rd.load(tmp_path)
    assert torch.equal(again.betas, model.betas) and again.objective == objective and same(again, made.unet)


def test_both_draw_the_same_images(rd, theirs, tmp_path):
    pipeline(theirs, num_train_timesteps=50).save_pretrained(tmp_path)
    model = rd.load(tmp_path)
    start = torch.randn(2, 3, 16, 16)
    ours = model.sample(2, "ddim", x_T=start, timesteps=list(range(45, -1, -5)), progress=False)
    scheduler = diffusers.DDIMScheduler.from_config(
        diffusers.DDPMScheduler.from_pretrained(tmp_path, subfolder="scheduler").config, set_alpha_to_one=True
    )
    scheduler.set_timesteps(10)
    x = start
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(theirs(x, t).sample, t, x).prev_sample
    assert max_error(ours, x.clamp(-1, 1)) <= 1e-3


def test_our_own_format_holds_such_a_network_too(rd, tmp_path):
    model = rd.UNet2DModel(**TINY).eval()
    model.betas = rd.linear_beta_schedule(100)
    again = rd.load(model.save_pretrained(tmp_path))
    assert again.config == model.config and again.state_dict().keys() == model.state_dict().keys()


def test_a_course_network_is_nothing_for_diffusers(rd, tmp_path):
    model = rd.DiffusionUNet(base_ch=16, channel_mults=(1,), attn_levels=())
    model.betas, model.image_size = rd.cosine_beta_schedule(10), (8, 8)
    with pytest.raises(ValueError, match="UNet2DModel, got a DiffusionUNet"):
        model.save_pretrained(tmp_path / "folder", format="diffusers")
    assert not (tmp_path / "folder").exists()


def edited(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(_class_name="UNet2DConditionModel"), "UNet2DConditionModel"),
        (dict(class_embed_type="timestep"), "class_embed_type"),
        (dict(down_block_types=["DownBlock2D", "AttnSkipDownBlock2D"]), "AttnSkipDownBlock2D"),
        (dict(block_out_channels=[32, 128]), "does not fit the architecture"),
        (dict(act_fn="mish"), "act_fn"),
        (dict(nobody_knows=3), "nobody_knows"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(rd, theirs, tmp_path, change, words):
    theirs.save_pretrained(tmp_path)
    edited(tmp_path, "config.json", **change)
    with pytest.raises(ValueError, match=words):
        rd.load(tmp_path)


def test_damaged_and_missing_weights_are_named(rd, theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors"):
        rd.load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.bin"):
        rd.load(tmp_path)


NAME = "google/ddpm-cifar10-32"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A cache of huggingface_hub's in a folder of its own, and no network."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_name_is_looked_up_in_the_cache(rd, theirs, hub, tmp_path):
    theirs.save_pretrained(tmp_path / "there")
    snapshot = hub / "models--google--ddpm-cifar10-32" / "snapshots" / "0123456789"
    shutil.copytree(tmp_path / "there", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123456789")
    assert same(rd.load(NAME), theirs)
    assert same(rd.DiffusionUNet.from_pretrained(NAME), theirs)


def test_without_cache_and_network_the_error_says_how_to_fetch_by_hand(rd, hub):
    with pytest.raises(FileNotFoundError, match=r"ddpm-cifar10-32 .*config\.json.*hf download"):
        rd.load(NAME)


def test_a_path_that_is_not_there_is_no_name(rd, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        rd.load(tmp_path / "nowhere")
