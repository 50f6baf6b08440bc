"""Folders of diffusers, read and written; diffusers itself writes and reads them on the other side."""

import json
import re
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tools import TINY_UNET2D, max_error

diffusers = pytest.importorskip("diffusers")

TINY = {**TINY_UNET2D, "attention_head_dim": None, "downsample_padding": 0}


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


@pytest.mark.parametrize("layout", ["pipeline", "bin", "diffusers", "rust_diffusion"])
@pytest.mark.parametrize("format", ["diffusers", "rust_diffusion"])
def test_a_folder_of_another_layout_is_not_written_into(rd, theirs, tmp_path, layout, format):
    model = rd.UNet2DModel(**TINY).eval()
    model.betas = rd.linear_beta_schedule(10)
    if layout == "pipeline":
        pipeline(theirs).save_pretrained(tmp_path)
    elif layout == "bin":
        theirs.save_pretrained(tmp_path, safe_serialization=False)
    else:
        model.save_pretrained(tmp_path, format=layout)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with torch.no_grad():
        model.conv_out.bias.fill_(7)
    if layout == format:
        model.save_pretrained(tmp_path, format=format)
        assert float(rd.load(tmp_path).conv_out.bias[0]) == 7
        return
    with pytest.raises(FileExistsError, match=f"directory: {re.escape(str(tmp_path))} .*another folder"):
        model.save_pretrained(tmp_path, format=format)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


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


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(_class_name="UNet2DConditionModel"), "describes a UNet2DConditionModel"),
        (dict(num_class_embeds=10), r"config\.json does not describe a UNet2DModel: num_class_embeds"),
        (dict(up_block_types=["AttnSkipUpBlock2D", "UpBlock2D"]), "AttnSkipUpBlock2D"),
    ],
)
def test_refusals_come_before_the_weights_are_read(rd, theirs, tmp_path, change, words):
    theirs.save_pretrained(tmp_path)
    edited(tmp_path, "config.json", **change)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=words):
        rd.load(tmp_path)


def test_what_an_average_of_diffusers_says_of_itself_is_no_argument(rd, theirs, tmp_path):
    average = diffusers.training_utils.EMAModel(
        theirs.parameters(), model_cls=diffusers.UNet2DModel, model_config=theirs.config
    )
    average.save_pretrained(tmp_path)
    assert "inv_gamma" in json.loads((tmp_path / "config.json").read_text())
    assert same(rd.load(tmp_path), theirs)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(rescale_betas_zero_snr=True), "rescale_betas_zero_snr must be false, got True.*betas="),
        (dict(thresholding=True), "thresholding must be false"),
        (dict(variance_type="learned_range"), "variance_type .*learned_range"),
        (dict(_class_name="EDMEulerScheduler"), "EDMEulerScheduler.*diffusers' own pipeline"),
        (dict(_class_name="KarrasVeScheduler", sigma_min=0.02), "KarrasVeScheduler"),
        (dict(_class_name="EulerDiscreteScheduler", sigma_min=0.002), "EulerDiscreteScheduler"),
        (dict(_class_name="FlowMatchEulerDiscreteScheduler", num_train_timesteps=50), "1000.*got 50"),
        (
            dict(_class_name="FlowMatchEulerDiscreteScheduler", invert_sigmas=True),
            "invert_sigmas must be false",
        ),
        (dict(_class_name="IPNDMScheduler"), "IPNDMScheduler.*diffusers' own pipeline"),
        (dict(_class_name="VQDiffusionScheduler"), "VQDiffusionScheduler"),
        (dict(_class_name="DDPMWuerstchenScheduler"), "DDPMWuerstchenScheduler"),
        (dict(trained_betas=[0.1] * 5), "trained_betas must be as many as num_train_timesteps, 1000, got 5"),
        (dict(prediction_type="trigflow"), "prediction_type"),
    ],
)
def test_schedulers_that_draw_what_ours_cannot_are_refused_by_name(rd, theirs, tmp_path, change, words):
    pipeline(theirs).save_pretrained(tmp_path)
    edited(tmp_path / "scheduler", "scheduler_config.json", **change)
    with pytest.raises(ValueError, match=rf"scheduler_config\.json.*{words}"):
        rd.load(tmp_path)


def test_how_a_scheduler_draws_is_told_once_and_written_again(rd, theirs, tmp_path):
    pipeline(theirs, clip_sample=False, variance_type="fixed_large").save_pretrained(tmp_path / "theirs")
    with pytest.warns(UserWarning, match="clip=False.*fixed_large.*ddpm_sample") as told:
        model = rd.load(tmp_path / "theirs")
    assert len(told) == 1 and told[0].filename == __file__
    model.save_pretrained(tmp_path / "ours", format="diffusers")
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "ours").scheduler
    assert again.config.clip_sample is False and again.config.variance_type == "fixed_large"


@pytest.mark.parametrize("said", [dict(), dict(variance_type="fixed_small_log"), dict(clip_sample=True)])
def test_a_scheduler_that_draws_as_ours_do_is_not_spoken_of(rd, theirs, tmp_path, said):
    pipeline(theirs, **said).save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.load(tmp_path)


SOLVERS = ["DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete"]


@pytest.mark.parametrize("kind", [*SOLVERS, "PNDM", "DEISMultistep", "LMSDiscrete", "DPMSolverSinglestep"])
def test_solvers_of_diffusers_never_clamp_which_is_told_and_written_again(rd, theirs, tmp_path, kind):
    scheduler = getattr(diffusers, f"{kind}Scheduler")()
    diffusers.DDPMPipeline(theirs, scheduler).save_pretrained(tmp_path / "theirs")
    with pytest.warns(UserWarning, match="so draw with clip=False$") as told:
        model = rd.load(tmp_path / "theirs")
    assert len(told) == 1 and model.card.certainty("betas") == "stated"
    model.save_pretrained(tmp_path / "ours", format="diffusers")
    assert diffusers.DDPMPipeline.from_pretrained(tmp_path / "ours").scheduler.config.clip_sample is False


@pytest.mark.parametrize("kind", ["FooScheduler", None])
def test_what_a_scheduler_that_nobody_knows_says_is_only_assumed(rd, theirs, tmp_path, kind):
    pipeline(theirs).save_pretrained(tmp_path)
    edited(tmp_path / "scheduler", "scheduler_config.json", _class_name=kind)
    with pytest.warns(UserWarning, match=f"{kind} is no scheduler that is known here"):
        card = rd.load(tmp_path).card
    assert card.certainty("objective") == card.certainty("betas") == "assumed"


@pytest.mark.parametrize(
    "name, value",
    [
        ("use_dynamic_shifting", True),
        ("shift_terminal", 0.1),
        ("use_karras_sigmas", True),
        ("use_exponential_sigmas", True),
        ("use_beta_sigmas", True),
        ("stochastic_sampling", True),
    ],
)
def test_straight_paths_in_other_steps_are_told_of_and_written_again(rd, theirs, tmp_path, name, value):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    diffusers.DDPMPipeline(theirs, scheduler).save_pretrained(tmp_path / "theirs")
    edited(tmp_path / "theirs" / "scheduler", "scheduler_config.json", **{name: value})
    with pytest.warns(UserWarning, match=f"{name}.*and flow_sample") as told:
        model = rd.load(tmp_path / "theirs")
    assert len(told) == 1
    model.save_pretrained(tmp_path / "ours", format="diffusers")
    made = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "ours")
    assert made.config[name] == value


def test_straight_paths_are_known_by_their_scheduler(rd, theirs, tmp_path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    diffusers.DDPMPipeline(theirs, scheduler).save_pretrained(tmp_path / "theirs")
    with pytest.warns(UserWarning, match=r'shift is 3\.0.*sampler="flow", shift=3\.0'):
        model = rd.load(tmp_path / "theirs")
    assert model.objective == "flow" and model.card.certainty("betas") == "assumed"
    start = torch.randn(2, 3, 16, 16)
    options = dict(x_T=start, clip=False, progress=False)
    ours = model.sample(2, "flow", sample_steps=4, shift=3.0, **options)
    scheduler.set_timesteps(4)
    x = start
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(theirs(x, t).sample, t, x).prev_sample
    assert max_error(ours, x) <= 1e-4

    model.save_pretrained(tmp_path / "ours", format="diffusers")
    made = diffusers.DDPMPipeline.from_pretrained(tmp_path / "ours")
    made.set_progress_bar_config(disable=True)
    assert isinstance(made.scheduler, diffusers.FlowMatchEulerDiscreteScheduler) and made.scheduler.shift == 3
    assert made(batch_size=1, num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 3)
    with pytest.warns(UserWarning, match="shift"):
        assert rd.load(tmp_path / "ours").objective == "flow"


def test_a_pipeline_of_more_parts_is_refused_and_its_unet_loads_alone(rd, theirs, tmp_path):
    pipeline(theirs, num_train_timesteps=50).save_pretrained(tmp_path)
    edited(tmp_path, "model_index.json", _class_name="LDMPipeline", vqvae=["diffusers", "VQModel"])
    with pytest.raises(ValueError, match=r"LDMPipeline, whose vqvae .*unet"):
        rd.load(tmp_path)
    # beside a pipeline's unet lies its scheduler
    model = rd.load(tmp_path / "unet")
    assert same(model, theirs) and len(model.betas) == 50 and model.card.certainty("betas") == "stated"


def test_parts_that_were_left_out_are_none(rd, theirs, tmp_path):
    pipeline(theirs).save_pretrained(tmp_path)
    edited(tmp_path, "model_index.json", safety_checker=[None, None], requires_safety_checker=True)
    assert same(rd.load(tmp_path), theirs)


def test_a_pipeline_without_a_unet_is_refused_by_its_name(rd, tmp_path):
    index = {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"StableDiffusion3Pipeline \(transformer\)"):
        rd.load(tmp_path)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_the_file_of_the_weights_stands_for_its_folder(rd, theirs, tmp_path, safe):
    theirs.save_pretrained(tmp_path, safe_serialization=safe)
    name = "diffusion_pytorch_model.safetensors" if safe else "diffusion_pytorch_model.bin"
    assert same(rd.load(tmp_path / name), theirs)


def test_weights_in_parts_or_variants_are_refused_by_their_names(rd, theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "variant", variant="fp16")
    with pytest.raises(
        FileNotFoundError, match=r"only diffusion_pytorch_model\.fp16\.safetensors\. Variants"
    ):
        rd.load(tmp_path / "variant")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="500KB")
    with pytest.raises(FileNotFoundError, match=r"-00001-of-.*\.safetensors\.index\.json.*save_pretrained"):
        rd.load(tmp_path / "parts")


@pytest.mark.parametrize("described", [True, False], ids=["with config.json", "alone"])
def test_flax_files_are_refused_by_name(rd, theirs, tmp_path, described):
    theirs.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "diffusion_flax_model.msgpack")
    if not described:
        (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"only diffusion_flax_model\.msgpack\. These are Flax files"):
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


def cached(hub):
    """Where a network of that name lies in the cache."""
    snapshot = hub / "models--google--ddpm-cifar10-32" / "snapshots" / "0123456789"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123456789")
    return snapshot


def test_a_name_is_looked_up_in_the_cache(rd, theirs, hub, tmp_path):
    theirs.save_pretrained(tmp_path / "there")
    shutil.copytree(tmp_path / "there", cached(hub), dirs_exist_ok=True)
    assert same(rd.load(NAME), theirs)
    assert same(rd.DiffusionUNet.from_pretrained(NAME), theirs)


def test_without_cache_and_network_the_error_says_how_to_fetch_by_hand(rd, hub):
    with pytest.raises(FileNotFoundError, match=r"ddpm-cifar10-32 .*config\.json.*hf download"):
        rd.load(NAME)


def test_a_path_that_is_not_there_is_no_name(rd, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        rd.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["../run", "a--b/c", "a..b/c", "runs/it-", "runs/it.git"])
def test_what_cannot_be_a_name_is_a_path_that_is_not_there(rd, hub, name):
    with pytest.raises(FileNotFoundError, match=f"^there is no file or folder {re.escape(name)}$"):
        rd.load(name)


def test_a_cached_folder_without_weights_says_how_to_fetch_them_by_hand(rd, theirs, hub):
    snapshot = cached(hub)
    pipeline(theirs).save_pretrained(snapshot)
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"hf download .* unet/diffusion_pytorch_model\.safetensors"):
        rd.load(NAME)
    shutil.rmtree(snapshot)
    snapshot.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config\.json .*hf download"):
        rd.load(NAME)


@pytest.fixture
def remote(monkeypatch, tmp_path):
    """A Hub whose one network lies in a folder, and a list of what was asked of it."""
    hub = pytest.importorskip("huggingface_hub")
    there, here, asked = tmp_path / "remote", tmp_path / "here", []
    there.mkdir()
    here.mkdir()

    def snapshot_download(name, *, allow_patterns, local_files_only):
        if local_files_only:
            raise hub.errors.LocalEntryNotFoundError("not in the cache")
        asked.append(allow_patterns)
        for file in filter(Path.is_file, (there / pattern for pattern in allow_patterns)):
            copy = here / file.relative_to(there)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(file, copy)
        return str(here)

    def list_repo_files(name):
        return [str(file.relative_to(there)) for file in there.rglob("*") if file.is_file()]

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "list_repo_files", list_repo_files)
    return SimpleNamespace(folder=there, here=here, asked=asked, hub=hub)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("as_pipeline", [True, False], ids=["pipeline", "flat"])
def test_weights_are_fetched_after_what_says_that_they_are_of_use(rd, theirs, remote, safe, as_pipeline):
    (pipeline(theirs) if as_pipeline else theirs).save_pretrained(remote.folder, safe_serialization=safe)
    assert same(rd.load(NAME), theirs)
    assert all(name.endswith(".json") for name in remote.asked[0])
    assert len(remote.asked) == (2 if safe else 3)


def test_nothing_is_fetched_of_a_network_that_is_not_computed_here(rd, theirs, remote):
    pipeline(theirs).save_pretrained(remote.folder)
    for change in (dict(_class_name="UNet2DConditionModel"), dict(class_embed_type="timestep")):
        edited(remote.folder / "unet", "config.json", **change)
        with pytest.raises(ValueError, match=next(iter(change.values()))):
            rd.load(NAME)
        edited(remote.folder / "unet", "config.json", _class_name="UNet2DModel")
    assert not list(remote.here.rglob("*.safetensors"))


def test_flax_files_on_the_hub_are_refused_by_name(rd, theirs, remote):
    theirs.save_pretrained(remote.folder)
    path = remote.folder / "diffusion_pytorch_model.safetensors"
    path.rename(remote.folder / "diffusion_flax_model.msgpack")
    with pytest.raises(
        FileNotFoundError, match=r"ddpm-cifar10-32 on the Hub .*diffusion_flax_model\.msgpack.*Flax"
    ):
        rd.load(NAME)


def test_whatever_goes_wrong_on_the_way_the_error_says_what_was_wanted(rd, remote, monkeypatch):
    def fails(name, **how):
        raise RuntimeError("the proxy says no\nand more")

    monkeypatch.setattr(remote.hub, "snapshot_download", fails)
    with pytest.raises(FileNotFoundError, match=r"config\.json.*\(the proxy says no\).*hf download google"):
        rd.load(NAME)
