"""`train` against the course's loop: the same losses and the same weights from the same seed and batches."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader

from tools import TINY, flat, relative_l2, slices

STEPS = 20  # of the diffusion


@pytest.fixture
def betas(oracle):
    return oracle.cosine_beta_schedule(STEPS)


def networks(rd, oracle, **changes):
    torch.manual_seed(2)
    theirs = oracle.DiffusionUNet(**{**TINY, **changes})
    ours = rd.DiffusionUNet(**{**TINY, **changes})
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def course(oracle, model, loader, betas, seed, **options):
    """(loss of every step, checkpoint, EMA) of the course's loop, seeded just before it begins."""
    ema = oracle.EMA(model, decay=options.pop("ema_decay", 0.9995))
    torch.manual_seed(seed)
    losses, checkpoint = oracle.course_loop(model, loader, betas, ema=ema, **options)
    return losses, checkpoint, ema


def close(got, expected, tolerance):
    assert len(got) == len(expected)
    assert all(abs(a - b) <= tolerance * abs(b) for a, b in zip(got, expected, strict=True)), (got, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_fifty_steps_lose_what_the_course_loses(rd, oracle, betas, dropout):
    """One batch per epoch, so that the history is the loss of every step."""
    ours, theirs = networks(rd, oracle, dropout=dropout)
    loader = DataLoader(slices(8), batch_size=8)
    result = rd.train(
        ours, loader, betas=betas, epochs=50, seed=5, device="cpu", precision="fp32", progress=False
    )
    losses, checkpoint, ema = course(oracle, theirs, loader, betas, 5, epochs=50)
    close(result.history, losses, 1e-4)
    assert relative_l2(flat(ours.parameters()), flat(theirs.parameters())) <= 1e-3
    assert relative_l2(flat(result.ema.shadow.parameters()), flat(ema.shadow.parameters())) <= 1e-3
    assert result.best_loss == pytest.approx(checkpoint["best_loss"], rel=1e-4)
    assert result.epochs_run == 50


def test_epochs_of_several_shuffled_batches_agree(rd, oracle, betas):
    """The loader draws its order from torch's generator, between the draws of the steps."""
    ours, theirs = networks(rd, oracle, dropout=0.2)
    loader = DataLoader(slices(22), batch_size=4, shuffle=True)  # the last batch has two images
    result = rd.train(
        ours, loader, betas=betas, epochs=9, seed=6, device="cpu", precision="fp32", progress=False
    )
    _, checkpoint, ema = course(oracle, theirs, loader, betas, 6, epochs=9)
    close(result.history, checkpoint["history"], 1e-4)
    assert relative_l2(flat(ours.parameters()), flat(theirs.parameters())) <= 1e-3
    assert relative_l2(flat(result.ema.shadow.parameters()), flat(ema.shadow.parameters())) <= 1e-3


def test_without_a_seed_torchs_own_random_state_is_used(rd, oracle, betas):
    """As in the notebook, where torch.manual_seed is called by hand."""
    ours, theirs = networks(rd, oracle)
    loader = DataLoader(slices(8), batch_size=4)
    torch.manual_seed(8)
    result = rd.train(ours, loader, betas=betas, epochs=3, device="cpu", precision="fp32", progress=False)
    _, checkpoint, _ = course(oracle, theirs, loader, betas, 8, epochs=3)
    close(result.history, checkpoint["history"], 1e-4)


@pytest.mark.parametrize(
    "options",
    [
        dict(learning_rate=1e-3, weight_decay=0.5),
        dict(grad_clip=0.01),
        dict(grad_clip=100.0, learning_rate=1e-3),
        dict(ema_decay=0.5),
        dict(weight_decay=0.0),
    ],
    ids=str,
)
def test_hyperparameters_have_the_courses_meaning(rd, oracle, betas, options):
    ours, theirs = networks(rd, oracle)
    loader = DataLoader(slices(8), batch_size=8)
    fixed = dict(betas=betas, epochs=15, seed=5, device="cpu", precision="fp32", progress=False)
    result = rd.train(ours, loader, **fixed, **options)
    losses, _, ema = course(oracle, theirs, loader, betas, 5, epochs=15, **options)
    close(result.history, losses, 1e-4)
    assert relative_l2(flat(ours.parameters()), flat(theirs.parameters())) <= 1e-3
    assert relative_l2(flat(result.ema.shadow.parameters()), flat(ema.shadow.parameters())) <= 1e-3
    assert result.ema.decay == ema.decay


def test_the_learning_rate_follows_the_cosine(rd, betas):
    rates = []
    model = rd.DiffusionUNet(**TINY)
    rd.train(
        *(model, slices(4)),
        **dict(betas=betas, epochs=7, batch_size=4, learning_rate=1e-3, device="cpu", progress=False),
        callback=lambda info: rates.append((info.epoch, info.lr)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    expected = []
    for epoch in range(7):
        expected.append((epoch, scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    assert [epoch for epoch, _ in rates] == list(range(7))
    assert [rate for _, rate in rates] == pytest.approx([rate for _, rate in expected], rel=1e-6)


def test_three_channels_and_dropout_free_attention_everywhere(rd, oracle, betas):
    ours, theirs = networks(rd, oracle, in_ch=3, attn_levels=(0, 1))
    loader = DataLoader(slices(8).expand(-1, 3, -1, -1).contiguous(), batch_size=4)
    result = rd.train(
        ours, loader, betas=betas, epochs=10, seed=5, device="cpu", precision="fp32", progress=False
    )
    _, checkpoint, _ = course(oracle, theirs, loader, betas, 5, epochs=10)
    close(result.history, checkpoint["history"], 1e-4)


@pytest.mark.parametrize("autocast, scaler", [(None, False), (torch.bfloat16, False), (torch.bfloat16, True)])
def test_the_courses_own_loop_trains_our_denoiser_and_ema(rd, oracle, betas, autocast, scaler):
    ours, theirs = networks(rd, oracle)
    loader = DataLoader(slices(8), batch_size=4)
    losses = []
    for module, model in ((rd, ours), (oracle, theirs)):
        ema = module.EMA(model, decay=0.9)
        torch.manual_seed(1)
        options = dict(epochs=5, ema=ema, autocast=autocast, scaler_enabled=scaler)
        losses.append(oracle.course_loop(model, loader, betas, **options)[0])
    close(*losses, 1e-4 if autocast is None else 2e-2)
    if autocast is None:
        assert relative_l2(flat(ours.parameters()), flat(theirs.parameters())) <= 1e-3


def test_training_lowers_the_loss(rd, betas):
    model = rd.DiffusionUNet(**TINY)
    before = copy.deepcopy(model.state_dict())
    result = rd.train(
        *(model, slices(32)),
        **dict(
            betas=betas, epochs=12, batch_size=8, learning_rate=2e-3, seed=0, device="cpu", progress=False
        ),
    )
    assert result.history[-1] < 0.7 * result.history[0]
    assert result.best_loss == min(result.history)
    assert all(not torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_bf16_keeps_float32_weights_and_follows_fp32(rd, oracle, betas):
    ours, theirs = networks(rd, oracle)
    loader = DataLoader(slices(8), batch_size=8)
    result = rd.train(
        ours, loader, betas=betas, epochs=30, seed=5, device="cpu", precision="bf16", progress=False
    )
    losses, _, _ = course(oracle, theirs, loader, betas, 5, epochs=30)
    assert all(p.dtype == torch.float32 for p in ours.parameters())
    assert result.history != losses
    close(result.history, losses, 0.05)
