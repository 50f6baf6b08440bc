"""Work that an accelerator is only given: losses that stay there, and updates and predictions captured in CUDA graphs.

Without a GPU the same code runs on the CPU, where nothing can be captured; the tests marked `cuda` do capture.
"""

import contextlib
import copy
import gc
import math
import warnings
import weakref

import pytest
import torch
from torch.utils.data import DataLoader

from rust_diffusion.support import graphs
from tools import TINY, flat, relative_l2, slices

STEPS = 20  # of the diffusion


@pytest.fixture
def betas(oracle):
    return oracle.cosine_beta_schedule(STEPS)


@pytest.fixture
def queued(monkeypatch):
    """As if the CPU were an accelerator."""
    monkeypatch.setattr(graphs, "queues", lambda device: True)


class Refusing:
    """A graph that nothing can be captured in, and that notes what it is asked."""

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
        dict(precision="fp16"),
        dict(accumulate=2),
        dict(grad_clip=0.01),
        dict(grad_clip=math.inf),
        dict(ema_warmup=True, lr_schedule="warmup_cosine", warmup_steps=3),
        dict(min_snr_gamma=5.0, objective="v", horizontal_flip=True),
    ],
)
def test_queued_updates_make_the_same_weights_as_watched_ones(rd, betas, monkeypatch, options):
    watched, expected = fit(rd, betas, **options)
    monkeypatch.setattr(graphs, "queues", lambda device: True)
    model, result = fit(rd, betas, **options)
    tolerance = 1e-2 if "precision" in options else 1e-4
    assert result.history == pytest.approx(expected.history, rel=tolerance)
    start = flat(network(rd).parameters())
    moved = flat(watched.parameters()) - start
    assert relative_l2(flat(model.parameters()) - start, moved) <= 10 * tolerance
    averages = [flat(r.ema.shadow.parameters()) - start for r in (result, expected)]
    assert relative_l2(*averages) <= 10 * tolerance


def test_float16_leaves_out_the_same_updates_when_nobody_looks(rd, betas, monkeypatch):
    """Images a thousand times too large: the scaled gradient is beyond float16 until the scale has fallen."""
    options = dict(data=slices(10) * 1000, precision="fp16", objective="x0", epochs=8)
    options |= dict(lr_schedule="warmup_cosine", warmup_steps=6)
    watched, expected = fit(rd, betas, **options)
    monkeypatch.setattr(graphs, "queues", lambda device: True)
    model, result = fit(rd, betas, **options)
    assert result.skipped_steps == expected.skipped_steps >= 1
    assert result.history == pytest.approx(expected.history, rel=1e-2)
    assert relative_l2(flat(model.parameters()), flat(watched.parameters())) <= 1e-2


def test_float16_counts_the_updates_it_made_when_nobody_looks(rd, betas, queued, tmp_path):
    options = dict(data=slices(10) * 1000, precision="fp16", objective="x0", epochs=30)
    _, result = fit(rd, betas, **options, max_steps=40, weights_dir=tmp_path)
    saved = torch.load(tmp_path / "DDPMDenoiser.ckpt", weights_only=True)
    position = saved["rust_diffusion"]["position"]
    assert position["updates"] == 40 and position["skipped"] == result.skipped_steps >= 1
    assert saved["scaler"]["scale"] == 2.0 ** (16 - position["skipped"])


def test_float16_gives_up_when_no_update_has_a_gradient_and_nobody_looks(rd, betas, queued, tmp_path):
    model = network(rd)
    with torch.no_grad():
        model.out_conv.weight.mul_(1e9)  # the prediction itself is beyond float16
    before = model.out_conv.weight.clone()
    with pytest.raises(RuntimeError, match=r"not finite .* last updates up to epoch 1"):
        fit(rd, betas, [slices(2)] * 40, model, precision="fp16", weights_dir=tmp_path)
    assert torch.equal(model.out_conv.weight, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [dict(), dict(precision="fp16", lr_schedule="warmup_cosine", warmup_steps=9), dict(accumulate=2)],
)
def test_a_queued_run_that_is_interrupted_goes_on_to_the_same_bits(rd, betas, queued, tmp_path, options):
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

    whole, expected = fit(rd, betas, loader(), weights_dir=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        fit(rd, betas, loader(limit=29), weights_dir=tmp_path / "parts", **options)
    model, result = fit(rd, betas, loader(), weights_dir=tmp_path / "parts", **options)
    assert result.history == expected.history
    assert torch.equal(flat(model.parameters()), flat(whole.parameters()))
    assert torch.equal(flat(result.ema.shadow.parameters()), flat(expected.ema.shadow.parameters()))


def test_a_loss_that_is_not_finite_ends_a_queued_run_and_leaves_good_files(rd, betas, queued, tmp_path):
    model, _ = fit(rd, betas, epochs=2, weights_dir=tmp_path)
    good = flat(model.parameters()).clone()
    data = slices(18)
    data[7, 0, 0, 0] = math.nan
    with pytest.raises(RuntimeError, match=r"not finite .* up to epoch 3"):
        fit(rd, betas, lambda: iter(data.split(4)), epochs=4, weights_dir=tmp_path)
    again, result = fit(rd, betas, epochs=2, weights_dir=tmp_path)
    assert result.epochs_run == 0 and torch.equal(flat(again.parameters()), good)


def test_max_steps_end_a_queued_run_with_its_loss_saved(rd, betas, queued, tmp_path):
    fit(rd, betas, max_steps=7, weights_dir=tmp_path)
    saved = torch.load(tmp_path / "DDPMDenoiser.ckpt", weights_only=True)["rust_diffusion"]["position"]
    assert saved["updates"] == 7 and saved["losses"] == 2 and saved["loss_sum"] > 0


def test_training_goes_on_where_nothing_can_be_captured(rd, betas, queued, monkeypatch):
    expected = flat(fit(rd, betas)[0].parameters())
    made = []

    def new(device, asked=None):
        made.append(Refusing())
        return made[-1]

    monkeypatch.setattr(graphs, "new", new)
    assert torch.equal(flat(fit(rd, betas)[0].parameters()), expected)
    assert [graph.asked for graph in made] == [["begin"], ["begin"]], "once for gradients, once for updates"


def test_sampling_goes_on_where_nothing_can_be_captured(rd, betas, monkeypatch):
    model = network(rd).eval()

    def ddpm():
        alphas = 1 - betas
        bars = torch.cumprod(alphas, 0)
        return rd.ddpm_sample(model, 2, (1, 16, 16), betas, alphas, bars, "cpu", seed=1)

    kinds = [ddpm, lambda: draw_two(rd, model, betas), lambda: draw_two(rd, model, betas, eta=0.7)]
    expected = [draw() for draw in kinds]
    graph = Refusing()
    monkeypatch.setattr(graphs, "new", lambda device, asked: graph)
    for draw, images in zip(kinds, expected, strict=True):
        for _ in range(2):
            assert torch.equal(draw(), images)
    assert graph.asked, "nobody was asked to capture"
    assert "replay" not in graph.asked


def test_pictures_handed_out_by_a_captured_step_stay_as_they_are(rd, betas, monkeypatch):
    model = network(rd).eval()
    paths = []
    for graph in (None, Refusing()):
        monkeypatch.setattr(graphs, "new", lambda device, asked, graph=graph: graph)
        path = []
        draw_two(
            rd, model, betas, eta=0.5, callback=lambda step, path=path: path.append((step.x, step.x0_hat))
        )
        paths.append(path)
    for (x, x0_hat), (same_x, same_x0_hat) in zip(*paths, strict=True):
        assert torch.equal(x, same_x) and torch.equal(x0_hat, same_x0_hat)


def test_a_model_that_drops_at_random_is_not_captured(rd, betas, monkeypatch):
    """Its draws and the noise take turns in one stream, as they do in the course."""
    graph = Refusing()
    monkeypatch.setattr(graphs, "new", lambda device, asked: graph)
    draw_two(rd, network(rd, dropout=0.1).train(), betas)
    assert not graph.asked


def in_channels_last(rd):
    """The CPU's engine declines such weights: what is captured on a GPU runs here too."""
    return network(rd).to(memory_format=torch.channels_last).eval()


def test_a_captured_network_follows_weights_that_are_given_other_memory(rd, betas, monkeypatch):
    model = in_channels_last(rd)
    monkeypatch.setattr(graphs, "new", lambda device, asked: Refusing())
    for precision in ("fp32", "bf16"):
        before = draw_two(rd, model, betas, precision=precision)
        for parameter in model.parameters():
            parameter.data = parameter.data * 1.1
        after = draw_two(rd, model, betas, precision=precision)
        assert torch.equal(after, draw_two(rd, copy.deepcopy(model), betas, precision=precision))
        assert not torch.equal(before, after)


def test_a_captured_network_serves_with_and_without_the_callers_modes(rd, betas, monkeypatch):
    model = in_channels_last(rd)
    single = draw_two(rd, model, betas)
    short = draw_two(rd, model, betas, precision="bf16")
    monkeypatch.setattr(graphs, "new", lambda device, asked: Refusing())
    with torch.inference_mode():
        assert torch.equal(draw_two(rd, model, betas), single)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(draw_two(rd, model, betas), short)
    assert torch.equal(draw_two(rd, model, betas), single)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_weights_with_channels_last_are_trained_like_others(rd, betas, queued, precision):
    plain, _ = fit(rd, betas, precision=precision)
    model, _ = fit(rd, betas, model=in_channels_last(rd).train(), precision=precision)
    assert relative_l2(flat(model.parameters()), flat(plain.parameters())) <= 1e-5


def test_a_callback_that_moves_the_averages_ends_the_run(rd, betas, tmp_path):
    def callback(info):
        for parameter in info.ema.shadow.parameters():
            parameter.data = parameter.data.clone()  # what .cpu() does on a GPU

    with pytest.raises(RuntimeError, match=r"memory of the weights .* work on a copy"):
        fit(rd, betas, weights_dir=tmp_path, callback=callback)
    saved = torch.load(tmp_path / "DDPMDenoiser.ckpt", weights_only=True)["rust_diffusion"]["position"]
    assert saved["epoch"] == 1, "the first epoch's files are good"
    _, result = fit(rd, betas, weights_dir=tmp_path)
    assert result.epochs_run == 2


def test_a_graph_that_raises_is_the_callers_error(rd, betas, queued, monkeypatch):
    class Raises(Refusing):
        def begin(self):
            raise ValueError("no graphs today")

    monkeypatch.setattr(graphs, "new", lambda device, asked=None: Raises())
    with pytest.raises(ValueError, match="no graphs today"):
        fit(rd, betas)


def test_a_graph_that_fails_is_a_warning_and_a_no(monkeypatch):
    """torch without CUDA refuses to begin; with it, an operation in mid-capture may."""

    class Fails:
        def __init__(self, graph, **options):
            assert options["capture_error_mode"] == "thread_local"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            raise RuntimeError("operation not permitted when stream is capturing\nand a trace")

    nothing = contextlib.nullcontext
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nothing())
    for name in ("CUDAGraph", "graph_pool_handle", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(graphs, "_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "graph", Fails)
    graph = graphs.CudaGraph(torch.device("cuda", 0))
    assert graph.begin()
    assert graphs._ONE_AT_A_TIME.locked()
    with pytest.warns(
        UserWarning, match=r"no CUDA graph could be made \(operation not permitted .*capturing\)"
    ):
        assert not graph.end(True)
    assert not graphs._ONE_AT_A_TIME.locked()


def test_graphs_are_made_on_gpus_unless_they_are_refused(monkeypatch):
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    for value, expected in ((None, True), ("1", True), ("0", False)):
        monkeypatch.delenv(graphs.SWITCH, raising=False)
        if value is not None:
            monkeypatch.setenv(graphs.SWITCH, value)
        assert isinstance(graphs.new(gpu), graphs.CudaGraph) == expected
        assert isinstance(graphs.new(gpu, True), graphs.CudaGraph)
        assert graphs.new(gpu, False) is None
        assert graphs.new(cpu) is None and graphs.new(cpu, True) is None


def test_the_samplers_hand_on_who_asks_for_graphs(rd, betas, monkeypatch):
    asked = []
    monkeypatch.setattr(graphs, "new", lambda device, wanted: asked.append(wanted))
    model = network(rd).eval()
    for options in ({}, {"cuda_graphs": True}, {"cuda_graphs": False}):
        draw_two(rd, model, betas, **options)
    assert asked == [None, True, False]
    with pytest.raises(TypeError, match=r"cuda_graphs.*'no'"):
        draw_two(rd, model, betas, cuda_graphs="no")


class Captured:
    """Hands out graphs that are known by a weak reference alone: who is alive is still kept by somebody."""

    def __init__(self):
        self.made = []

    def new(self, device, asked=None):
        graph = Refusing()
        self.made.append(weakref.ref(graph))
        return graph

    @property
    def alive(self):
        gc.collect()
        return [graph() is not None for graph in self.made]


def test_a_captured_pass_is_kept_for_the_next_images_and_released_by_whatever_else_comes(
    rd, betas, monkeypatch
):
    model, captured = in_channels_last(rd), Captured()
    monkeypatch.setattr(graphs, "new", captured.new)
    draw_two(rd, model, betas)
    draw_two(rd, model, betas)
    assert captured.alive == [True, False], "the second run had a graph already"
    alpha_bars = torch.cumprod(1 - betas, 0)
    rd.ddim_sample(model, 3, (1, 16, 16), alpha_bars, "cpu", 4, progress=False)
    assert captured.alive == [False, False, True], "images of another number need a graph of their own"
    monkeypatch.setattr(graphs, "new", lambda device, asked: None)
    draw_two(rd, model, betas)
    assert captured.alive == [False] * 3, "a run that asks for no graph leaves none behind"


def test_a_captured_pass_goes_with_its_model(rd, betas, monkeypatch):
    model, captured = in_channels_last(rd), Captured()
    monkeypatch.setattr(graphs, "new", captured.new)
    draw_two(rd, model, betas)
    assert captured.alive == [True]
    del model
    assert captured.alive == [False]


@pytest.mark.cuda
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_captured_training_is_direct_training(rd, betas, monkeypatch, precision, accumulate):
    options = dict(device="cuda", precision=precision, accumulate=accumulate, epochs=8, objective="v")
    monkeypatch.delenv(graphs.SWITCH, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured, result = fit(rd, betas, **options)
    monkeypatch.setenv(graphs.SWITCH, "0")
    direct, expected = fit(rd, betas, **options)
    assert result.history == pytest.approx(expected.history, rel=1e-3)
    assert relative_l2(flat(captured.parameters()), flat(direct.parameters())) <= 1e-2


@pytest.mark.cuda
def test_the_host_waits_for_the_gpu_only_to_show_how_it_goes(rd, betas, monkeypatch, capfd):
    monkeypatch.setenv(graphs.SWITCH, "0")  # making a capture waits, once
    images = slices(512).cuda()
    fit(rd, betas, images, device="cuda", epochs=1)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        _, result = fit(rd, betas, images, device="cuda", epochs=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # The engine's threads have no Python to warn through: torch writes their waits to standard error.
    waits = capfd.readouterr().err.count("synchronizing CUDA operation")
    shown = 512 / result.images_per_second / 0.1
    assert waits <= shown + 10, f"{waits} waits in 128 updates"


@pytest.mark.cuda
def test_work_goes_on_after_a_capture_that_broke():
    graph = graphs.CudaGraph(torch.device("cuda", 0))
    assert graph.begin()
    with pytest.raises(RuntimeError):
        torch.ones(1, device="cuda").item()
    with pytest.warns(UserWarning, match="no CUDA graph could be made"):
        assert not graph.end(False)
    torch.cuda.empty_cache()
    assert torch.isfinite(torch.randn(8, device="cuda")).all()
    again = graphs.CudaGraph(torch.device("cuda", 0))
    x = torch.zeros(3, device="cuda")
    assert again.begin()
    x.add_(1)
    assert again.end(True)
    again.replay()
    assert torch.equal(x.cpu(), torch.ones(3))


@pytest.mark.cuda
@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_captured_sampling_is_direct_sampling_and_follows_the_weights(rd, betas, monkeypatch, precision, eta):
    model = network(rd).cuda().eval()

    def draw(model):
        return draw_two(rd, model, betas, device="cuda", precision=precision, eta=eta)

    monkeypatch.delenv(graphs.SWITCH, raising=False)
    first = draw(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    second = draw(model)
    monkeypatch.setenv(graphs.SWITCH, "0")
    assert torch.allclose(draw(copy.deepcopy(model)), second, atol=1e-4)
    assert not torch.allclose(first, second, atol=1e-4)
