"""Work that an accelerator is only given: losses that stay there, and updates and predictions recorded as CUDA graphs.

Without a GPU the same code runs on the CPU, where nothing can be recorded; the tests marked `cuda` do record.
"""

import contextlib
import copy
import math
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from rust_diffusion import _graphs
from tools import TINY, flat, relative_l2, slices

STEPS = 20  # of the diffusion


@pytest.fixture
def betas(oracle):
    return oracle.cosine_beta_schedule(STEPS)


@pytest.fixture
def queued(monkeypatch):
    """As if the CPU were an accelerator."""
    monkeypatch.setattr(_graphs, "queues", lambda device: True)


class Refusing:
    """A recorder that cannot record, and notes what it is asked."""

    def __init__(self):
        self.asked = []

    def begin(self):
        self.asked.append("begin")
        return False

    def end(self, whole):
        self.asked.append("end")
        return False

    def replay(self):
        self.asked.append("replay")


def network(rd, **changes):
    torch.manual_seed(2)
    return rd.DiffusionUNet(**{**TINY, **changes})


def fit(rd, betas, data=None, model=None, **options):
    model = network(rd) if model is None else model
    settings = dict(
        batch_size=4, epochs=3, learning_rate=1e-3, ema_decay=0.9, seed=5, device="cpu", precision="fp32"
    )
    data = slices(18) if data is None else data
    result = rd.train(model, data, betas=betas, progress=False, **{**settings, **options})
    return model, result


def draw_two(rd, model, betas, device="cpu", **options):
    alpha_bars = torch.cumprod(1 - betas, 0)
    return rd.ddim_sample(model, 2, (1, 16, 16), alpha_bars, device, sample_steps=9, seed=1, **options)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(precision="bf16"),
        dict(accumulate=2),
        dict(grad_clip=0.01),
        dict(grad_clip=math.inf),
        dict(ema_warmup=True, warmup_steps=3),
        dict(min_snr_gamma=5.0, objective="v", horizontal_flip=True),
    ],
)
def test_queued_updates_make_the_same_weights_as_watched_ones(rd, betas, monkeypatch, options):
    watched, expected = fit(rd, betas, **options)
    monkeypatch.setattr(_graphs, "queues", lambda device: True)
    model, result = fit(rd, betas, **options)
    tolerance = 1e-2 if options.get("precision") == "bf16" else 1e-4
    assert result.history == pytest.approx(expected.history, rel=tolerance)
    start = flat(network(rd).parameters())
    moved = flat(watched.parameters()) - start
    assert relative_l2(flat(model.parameters()) - start, moved) <= 10 * tolerance
    averages = [flat(r.ema.shadow.parameters()) - start for r in (result, expected)]
    assert relative_l2(*averages) <= 10 * tolerance


def test_a_queued_run_that_is_interrupted_goes_on_to_the_same_bits(rd, betas, queued, tmp_path):
    class Stops(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images, self.reads, self.limit = images, 0, None

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            self.reads += 1
            if self.limit is not None and self.reads > self.limit:
                raise KeyboardInterrupt
            return self.images[index]

    def loader(limit=None):
        data = Stops(slices(18))
        data.limit = limit
        return DataLoader(data, batch_size=4, shuffle=True)

    whole, expected = fit(rd, betas, loader(), weights_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(rd, betas, loader(limit=29), weights_dir=tmp_path / "parts")
    model, result = fit(rd, betas, loader(), weights_dir=tmp_path / "parts")
    assert result.history == expected.history
    assert torch.equal(flat(model.parameters()), flat(whole.parameters()))
    assert torch.equal(flat(result.ema.shadow.parameters()), flat(expected.ema.shadow.parameters()))


def test_a_loss_that_is_not_finite_ends_a_queued_run_and_leaves_good_files(rd, betas, queued, tmp_path):
    model, _ = fit(rd, betas, epochs=2, weights_dir=tmp_path)
    good = flat(model.parameters()).clone()
    data = slices(18)
    data[7, 0, 0, 0] = math.nan
    with pytest.raises(RuntimeError, match=r"not finite .* up to epoch 2"):
        fit(rd, betas, lambda: iter(data.split(4)), epochs=4, weights_dir=tmp_path)
    again, result = fit(rd, betas, epochs=2, weights_dir=tmp_path)
    assert result.epochs_run == 0 and torch.equal(flat(again.parameters()), good)


def test_max_steps_end_a_queued_run_with_its_loss_saved(rd, betas, queued, tmp_path):
    fit(rd, betas, max_steps=7, weights_dir=tmp_path)
    saved = torch.load(tmp_path / "DDPMDenoiser.ckpt", weights_only=True)["rust_diffusion"]["position"]
    assert saved["updates"] == 7 and saved["losses"] == 2 and saved["loss_sum"] > 0


def test_training_goes_on_where_nothing_can_be_recorded(rd, betas, queued, monkeypatch):
    expected = flat(fit(rd, betas)[0].parameters())
    recorder = Refusing()
    monkeypatch.setattr(_graphs, "recorder", lambda device: recorder)
    assert torch.equal(flat(fit(rd, betas)[0].parameters()), expected)
    assert recorder.asked == ["begin"], "asked once, after the warm-up, and never again"


def test_sampling_goes_on_where_nothing_can_be_recorded(rd, betas, monkeypatch):
    model = network(rd).eval()
    expected = draw_two(rd, model, betas)
    recorder = Refusing()
    monkeypatch.setattr(_graphs, "recorder", lambda device: recorder)
    for _ in range(2):
        assert torch.equal(draw_two(rd, model, betas), expected)
    assert "replay" not in recorder.asked


def test_a_recorder_that_raises_is_the_callers_error(rd, betas, queued, monkeypatch):
    class Raises(Refusing):
        def begin(self):
            raise ValueError("no graphs today")

    monkeypatch.setattr(_graphs, "recorder", lambda device: Raises())
    with pytest.raises(ValueError, match="no graphs today"):
        fit(rd, betas)


def test_a_graph_that_fails_is_a_warning_and_a_no(monkeypatch):
    """torch without CUDA refuses to begin; with it, an operation in mid-recording may."""

    class Fails:
        def __init__(self, graph):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            raise RuntimeError("operation not permitted when stream is capturing\nand a trace")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", Fails)
    recorder = _graphs.CudaRecorder(torch.device("cuda", 0))
    assert recorder.begin()
    with pytest.warns(
        UserWarning, match=r"no CUDA graph could be made \(operation not permitted .*capturing\)"
    ):
        assert not recorder.end(True)


def test_the_switch_keeps_graphs_away(monkeypatch):
    monkeypatch.setenv(_graphs.SWITCH, "0")
    assert _graphs.recorder(torch.device("cuda", 0)) is None
    assert _graphs.recorder(torch.device("cpu")) is None


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_training_is_direct_training(rd, betas, monkeypatch, precision):
    options = dict(device="cuda", precision=precision, epochs=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorded, result = fit(rd, betas, **options)
    monkeypatch.setenv(_graphs.SWITCH, "0")
    direct, expected = fit(rd, betas, **options)
    assert result.history == pytest.approx(expected.history, rel=1e-3)
    assert relative_l2(flat(recorded.parameters()), flat(direct.parameters())) <= 1e-3


@pytest.mark.cuda
def test_the_host_waits_for_the_gpu_only_to_show_how_it_goes(rd, betas, monkeypatch):
    monkeypatch.setenv(_graphs.SWITCH, "0")  # making a recording waits, once
    images = slices(512).cuda()
    fit(rd, betas, images, device="cuda", epochs=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            _, result = fit(rd, betas, images, device="cuda", epochs=1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = sum("synchroniz" in str(warning.message) for warning in caught)
    shown = 512 / result.images_per_second / 0.1
    assert waits <= shown + 10, f"{waits} waits in 128 updates"


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_recorded_sampling_is_direct_sampling_and_follows_the_weights(rd, betas, monkeypatch, precision):
    model = network(rd).cuda().eval()

    def draw(model):
        return draw_two(rd, model, betas, device="cuda", precision=precision)

    first = draw(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    second = draw(model)
    monkeypatch.setenv(_graphs.SWITCH, "0")
    assert torch.allclose(draw(copy.deepcopy(model)), second, atol=1e-4)
    assert not torch.allclose(first, second, atol=1e-4)
