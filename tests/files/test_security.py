"""Files and names made to do harm, and the rules by which the sources are written."""

import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from tools import ROOT, slices

SMALL = dict(base_ch=8, channel_mults=(1, 2), attn_levels=(1,), time_dim=8, num_heads=2)


class Harm:
    """Unpickling this makes a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def model(rd):
    torch.manual_seed(0)
    return rd.DiffusionUNet(**SMALL)


@pytest.fixture
def fit(rd, oracle, tmp_path):
    def run(**options):
        fixed = dict(epochs=2, batch_size=4, device="cpu", progress=False, weights_dir=tmp_path / "weights")
        options = {**fixed, "betas": oracle.cosine_beta_schedule(20), **options}
        return rd.train(rd.DiffusionUNet(**SMALL), slices(4), **options)

    return run


# ---------------------------------------------------------------------- pickles


def poisoned(kind, path, harm):
    """Write a file that runs code for whoever trusts it."""
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps({"init.weight": harm}))
    elif kind == "torch":
        torch.save({"init.weight": harm, "ema": {"decay": 0.5, "shadow": harm}}, path)
    elif kind == "torch, old format":
        torch.save({"init.weight": harm}, path, _use_new_zipfile_serialization=False)
    else:  # whole module objects, as torch.save(model) writes them
        module = torch.nn.Linear(1, 1)
        module.harm = harm
        torch.save(module, path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["plain pickle", "torch", "torch, old format", "module"])
@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_a_pickle_runs_nothing_wherever_a_file_is_read(rd, fit, tmp_path, kind, suffix):
    (tmp_path / "weights").mkdir()
    path, trace = tmp_path / "weights" / f"DDPMDenoiser{suffix}", tmp_path / "trace"
    poisoned(kind, path, Harm(trace))
    readers = [fit, lambda: rd.load(path), lambda: rd.load(path.parent / "DDPMDenoiser.pth")]
    if suffix == ".ckpt":  # it is also read beside weights that are good
        torch.save(rd.DiffusionUNet(**SMALL).state_dict(), path.with_suffix(".pth"))
    for read in readers:
        with pytest.raises(ValueError, match=re.escape(path.name)):
            read()
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickles_under_the_names_of_other_formats_run_nothing(rd, model, tmp_path):
    trace = tmp_path / "trace"
    content = pickle.dumps(Harm(trace))
    model.save_pretrained(tmp_path / "saved", betas=rd.cosine_beta_schedule(5), image_size=8)
    for name in ("model.safetensors", "config.json"):
        whole = (tmp_path / "saved" / name).read_bytes()
        (tmp_path / "saved" / name).write_bytes(content)
        with pytest.raises(ValueError):
            rd.load(tmp_path / "saved")
        (tmp_path / "saved" / name).write_bytes(whole)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png"):
        rd.load_images(tmp_path / "a.png", progress=False)
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "set.cache").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rd.load_images(tmp_path / "a.png", 8, cache=tmp_path / "set.cache", progress=False)
    assert not trace.exists()


def test_no_source_reads_a_pickle_without_weights_only():
    for path in (ROOT / "python").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"\bpickle\.loads?\(|allow_pickle=True|weights_only=False|\bexec\(", text), path
        for call in re.findall(r"torch\.load\((.*?)\)\n", text):
            assert "weights_only=True" in call, f"{path}: torch.load({call})"


# ---------------------------------------------------------------------- bombs: small files that ask for much


def zipped_again(path, **options):
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def test_a_compressed_checkpoint_is_refused(rd, model, tmp_path):
    """A gigabyte of zeros would fit into a megabyte."""
    path = tmp_path / "x.pth"
    torch.save(model.state_dict(), path)
    zipped_again(path)
    rd.load(path, num_heads=2)
    zipped_again(path, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"x\.pth.*compressed"):
        rd.load(path, num_heads=2)


def test_tensors_that_repeat_one_number_are_refused(rd, model, tmp_path):
    """A stride of 0 lets four bytes pass for any number of weights."""
    weights = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in model.state_dict().items()}
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth.*larger than the file"):
        rd.load(tmp_path / "x.pth", num_heads=2)


def test_a_small_file_cannot_ask_for_a_large_network(rd, model, tmp_path):
    model.save_pretrained(tmp_path, betas=rd.cosine_beta_schedule(5), image_size=8)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"].update(base_ch=32768, channel_mults=[1, 2, 2, 2])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit"):
        rd.load(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.update(schedule={"name": "cosine", "num_steps": 10**12}),
        lambda c: c.update(schedule={"name": "custom", "num_steps": 2, "betas": ["x", "y"]}),
        lambda c: c.update(schedule=[["cosine"]]),
        lambda c: c.update(image_size=[10**9, 10**9]),
        lambda c: c.update(objective=["eps"]),
        lambda c: c["model"].update(channel_mults=[1] * 10**5),
        lambda c: c["model"].update(attn_levels=[10**40]),
        lambda c: c["model"].update(__class__="x"),
        lambda c: c["model"].update(dropout=float("nan")),
        lambda c: c.update(weights_crc32="0"),
    ],
)
def test_a_hostile_configuration_is_refused_by_name(rd, model, tmp_path, spoil):
    model.save_pretrained(tmp_path, betas=rd.cosine_beta_schedule(5), image_size=8)
    config = json.loads((tmp_path / "config.json").read_text())
    spoil(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        rd.load(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"format": ' + "9" * 5000 + "}", "\ud800".encode("utf-8", "surrogatepass")]
)
def test_json_that_no_parser_likes_is_refused_by_name(rd, model, tmp_path, text):
    model.save_pretrained(tmp_path, betas=rd.cosine_beta_schedule(5), image_size=8)
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"config\.json"):
        rd.load(tmp_path)


def test_one_flipped_bit_is_noticed(rd, model, tmp_path):
    path = tmp_path / "x.pth"
    torch.save(model.state_dict(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pth.*damaged"):
        rd.load(path, num_heads=2)
    model.save_pretrained(tmp_path / "saved", betas=rd.cosine_beta_schedule(5), image_size=8)
    weights = tmp_path / "saved" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-9] ^= 4
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged.*weights_crc32"):
        rd.load(tmp_path / "saved")


def test_files_written_without_checksums_are_read(rd, model, tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(model.state_dict(), tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    torch.save(model.state_dict(), tmp_path / "y.pth", _use_new_zipfile_serialization=False)
    for name in ("x.pth", "y.pth"):
        assert torch.equal(rd.load(tmp_path / name, num_heads=2).init.weight, model.init.weight)
    model.save_pretrained(tmp_path / "saved", betas=rd.cosine_beta_schedule(5), image_size=8)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    del config["weights_crc32"]  # as in folders that were written before there was one
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    assert torch.equal(rd.load(tmp_path / "saved").init.weight, model.init.weight)


def test_loading_draws_no_random_number(rd, model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "x.pth")
    before = torch.get_rng_state()
    rd.load(tmp_path / "x.pth", num_heads=2)
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------------- what a checkpoint says of itself


def changed(**entries):
    return lambda saved: saved["rust_diffusion"].update(entries)


def numpys_place(place):
    def spoil(saved):
        name, words, _, *rest = saved["rust_diffusion"]["random"]["now"]["numpy"]
        saved["rust_diffusion"]["random"]["now"]["numpy"] = (name, words, place, *rest)

    return spoil


HOSTILE = {
    "our part is no dict": lambda saved: saved.update(rust_diffusion=[1]),
    "a format of text": changed(format="1"),
    "a position of text": changed(position={"epoch": "two"}),
    "a negative position": lambda saved: saved["rust_diffusion"]["position"].update(batch=-3),
    "a loss sum of NaN": lambda saved: saved["rust_diffusion"]["position"].update(loss_sum=float("nan")),
    "no random states": changed(random={}),
    "a short random state": lambda saved: saved["rust_diffusion"]["random"]["now"].update(
        torch=torch.zeros(3)
    ),
    "a random state of zeros": lambda saved: saved["rust_diffusion"]["random"]["now"]["torch"].zero_(),
    # NumPy itself would take it and read beside its table
    "a place beyond NumPy's table": numpys_place(10**6),
    "a place before NumPy's table": numpys_place(-(10**6)),
    "an order seed of text": changed(order_seed="x"),
    "a validation history of text": changed(val_history=["x"]),
    "a best loss of text": lambda saved: saved.update(best_loss="low"),
    "a scaler of text": lambda saved: saved.update(scaler={"scale": "x", "_growth_tracker": 0}),
    "a config that is a list": lambda saved: saved.update(config=[1]),
    "weights of NaN": lambda saved: saved["model"]["init.weight"].fill_(float("nan")),
    "weights of integers": lambda saved: saved["model"].update(
        {"init.bias": torch.zeros(8, dtype=torch.int64)}
    ),
    "sparse weights": lambda saved: saved["model"].update({"init.bias": torch.zeros(8).to_sparse()}),
    "moments of infinity": lambda saved: saved["optimizer"]["state"][0]["exp_avg"].fill_(float("inf")),
    "an optimizer's entry that is a list": lambda saved: saved["optimizer"]["state"].update({0: [1]}),
    "an optimizer's step of text": lambda saved: saved["optimizer"]["state"][0].update(step="x"),
    "names among the optimizer's numbers": lambda saved: saved["optimizer"]["state"].update(x=1),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_checkpoint_is_refused_before_anything_changes(rd, fit, tmp_path, spoil):
    fit(epochs=1)
    path = tmp_path / "weights" / "DDPMDenoiser.ckpt"
    saved = torch.load(path, weights_only=True)
    spoil(saved)
    torch.save(saved, path)
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**SMALL)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"DDPMDenoiser\.ckpt"):
        rd.train(
            *(model, slices(4)),
            **dict(betas=rd.cosine_beta_schedule(20), epochs=2, weights_dir=path.parent, device="cpu"),
            progress=False,
            batch_size=4,
        )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "about",
    [
        {"config": {"num_diffusion_steps": 10**12}},
        {"config": {"num_diffusion_steps": "many"}},
        {"rust_diffusion": {"betas": "x"}},
        {"rust_diffusion": {"betas": torch.full((5,), 2.0)}},
        {"rust_diffusion": {"image_size": [10**9, 1]}},
        {"rust_diffusion": {"objective": "nonsense"}},
        {"rust_diffusion": {"model": [1]}},
    ],
)
def test_what_a_checkpoint_says_of_its_weights_is_checked(rd, model, tmp_path, about):
    torch.save({"ema": {"decay": 0.9, "shadow": model.state_dict()}, **about}, tmp_path / "x.ckpt")
    torch.save(model.state_dict(), tmp_path / "x.pth")
    for name in ("x.ckpt", "x.pth"):
        with pytest.raises(ValueError, match=r"x\.ckpt"):
            rd.load(tmp_path / name, num_heads=2)


def test_a_network_of_no_channels_is_no_network(rd, model, tmp_path):
    weights = model.state_dict()
    weights["init.weight"] = torch.zeros(0, 1, 3, 3)
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth"):
        rd.load(tmp_path / "x.pth")


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/x", "a/b", "a/../../x", "..", ".", "", "a\0b", "x/", "n" * 300, "\ud800"]
)
def test_a_name_never_leaves_its_folder(fit, tmp_path, name):
    outside = sorted(tmp_path.iterdir())
    try:
        fit(name=name, epochs=1)
    except ValueError as error:
        assert "name" in str(error) or "surrogates" in str(error)
        assert not any(path.is_file() for path in tmp_path.rglob("*"))
    else:
        assert name == "..", "then the files' names begin with two dots, and that is all"
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "weights"] == outside


def test_a_checkpoint_that_is_a_pipe_or_a_folder_is_refused_and_not_waited_for(fit, tmp_path):
    import os

    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / "DDPMDenoiser.ckpt"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"DDPMDenoiser\.ckpt.*not a file"):
        fit()
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"DDPMDenoiser\.ckpt.*not a file"):
        fit()


def test_a_link_among_the_files_is_replaced_and_not_followed(fit, tmp_path):
    """Somebody's link in a shared folder must not make a run write elsewhere."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "weights" / "DDPMDenoiser.pth").symlink_to(tmp_path / "elsewhere")
    fit(force_restart=True)
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"
    assert not (tmp_path / "weights" / "DDPMDenoiser.pth").is_symlink()


# ---------------------------------------------------------------------- the sources

#: The one folder with `unsafe`: the calls into libtorch.
UNSAFE = "src/core/src/libtorch/"


def code_lines(path):
    """(number, line) without comments."""
    for number, line in enumerate(path.read_text().splitlines()):
        yield number, re.sub(r"//.*", "", line)


def test_unsafe_rust_is_where_it_belongs_and_says_why():
    for path in (ROOT / "src").rglob("*.rs"):
        lines, name = path.read_text().splitlines(), path.relative_to(ROOT).as_posix()
        for number, line in code_lines(path):
            if not re.search(r"\bunsafe\b(?!_)", line):
                continue
            if re.search(r"(allow|deny|forbid|warn)\(.*unsafe", line):
                continue  # the lint's own name
            assert name.startswith(UNSAFE), f"{name}:{number + 1}: {line.strip()}"
            near = "\n".join(lines[max(0, number - 8) : number + 1])
            assert "SAFETY" in near or "# Safety" in near, (
                f"{name}:{number + 1} gives no reason: {line.strip()}"
            )


def test_the_security_policy_says_how_to_report():
    policy = (ROOT / "SECURITY.md").read_text()
    assert "private" in policy and "weights_only=True" in policy
