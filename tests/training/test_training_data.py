"""What `train` takes as data, and what it gives back."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tools import TINY, same_state, slices


@pytest.fixture
def fit(rd, oracle):
    """fit(data, **options): (model, result) of a short run that always starts alike."""

    def run(data, **options):
        torch.manual_seed(1)
        model = rd.DiffusionUNet(**TINY)
        options = {
            **dict(betas=oracle.cosine_beta_schedule(10), epochs=3, batch_size=4, seed=3),
            **dict(device="cpu", precision="fp32", progress=False),
            **options,
        }
        return model, rd.train(model, data, **options)

    return run


class Slices(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def test_a_tensor_and_an_array_train_alike(fit):
    images = slices(10)
    model, result = fit(images)
    other, other_result = fit(images.numpy())
    assert result.history == other_result.history and same_state(model.state_dict(), other.state_dict())


def test_the_seed_decides_the_run(fit):
    images = slices(10)
    first, _ = fit(images)
    again, _ = fit(images.clone())
    assert same_state(first.state_dict(), again.state_dict())
    _, other = fit(images, seed=4)
    assert other.history != fit(images)[1].history


def test_a_tensor_is_shuffled(fit):
    """Were it not, its history would be that of a loader in order."""
    images = slices(12)
    _, in_order = fit(DataLoader(images, batch_size=4))
    _, shuffled = fit(images)
    assert shuffled.history != in_order.history


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_decides_its_own_batches(fit, workers):
    sizes = []

    class Seen(Slices):
        def __getitem__(self, index):
            sizes.append(index)
            return super().__getitem__(index)

    loader = DataLoader(Seen(slices(7)), batch_size=3, num_workers=workers)
    _, result = fit(loader, batch_size=1)
    assert len(result.history) == 3
    if not workers:
        assert sizes == list(range(7)) * 3


def test_a_dataset_is_batched(fit):
    asked = []

    class Seen(Slices):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    _, result = fit(Seen(slices(6)))
    assert len(result.history) == 3 and sorted(asked[:6]) == list(range(6)) and len(asked) == 18


def as_pil(levels):
    return Image.fromarray(levels[0].numpy())


ITEMS = {
    "PIL images": as_pil,
    "PIL images with labels": lambda levels: (as_pil(levels), "nodule"),
    "dicts of PIL images": lambda levels: {"id": None, "image": as_pil(levels)},
    "arrays with channels last": lambda levels: levels[0].numpy()[..., None],
    "arrays without channels": lambda levels: levels[0].numpy(),
}


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS.keys())
def test_a_dataset_may_give_what_a_list_may_hold(fit, item):
    levels = ((slices(8) + 1) * 127.5).to(torch.uint8)
    expected, _ = fit(Slices(levels), epochs=1)
    model, _ = fit(Slices([item(one) for one in levels]), key="image", val_data=Slices(levels), epochs=1)
    assert same_state(model.state_dict(), expected.state_dict())


@pytest.mark.parametrize("form", [as_pil, lambda levels: levels])
def test_a_list_of_images_with_labels_is_a_dataset(fit, form):
    levels = ((slices(8) + 1) * 127.5).to(torch.uint8)
    expected, _ = fit(Slices(levels), epochs=1)
    model, _ = fit([(form(one), 3) for one in levels], epochs=1)
    assert same_state(model.state_dict(), expected.state_dict())


def test_whole_numbers_beyond_grey_levels_are_refused_with_the_remedy(fit):
    with pytest.raises(
        TypeError, match=r"^data must be .* got torch\.int16; as floats scale them: 2 \* \(x - low"
    ):
        fit(torch.zeros(4, 1, 8, 8, dtype=torch.int16))


@pytest.mark.parametrize(
    "items, error, message",
    [
        (["a.png"] * 4, TypeError, r"^data\[\d\] must be a torch\.Tensor or a NumPy array, got str"),
        ([slices(1)[0], slices(1, size=16)[0]], ValueError, r"^data must hold images of one size"),
        ([torch.zeros(8)] * 4, ValueError, r"^data\[\d\] must be \(C, H, W\), .* got shape \(8,\)"),
    ],
)
def test_a_dataset_of_something_else_is_refused_in_words(fit, items, error, message):
    with pytest.raises(error, match=message):
        fit(Slices(items))


@pytest.mark.parametrize("wrong", [0, 3])
def test_an_item_of_a_dataset_is_called_by_its_own_number(fit, wrong):
    items = [*slices(8)]
    items[wrong] = items[wrong][:, :, :4]
    with pytest.raises(ValueError, match=rf"data\[{wrong}\] is 8 x 4 with 1 channels"):
        fit(Slices(items), batch_size=8)
    items[wrong] = None
    with pytest.raises(TypeError, match=rf"^data\[{wrong}\] must be .*, got NoneType"):
        fit(Slices(items), batch_size=8)


def test_a_loader_and_a_list_of_its_batches_train_alike(fit):
    images = slices(8)
    model, result = fit([images[:4], images[4:]])
    assert len(result.history) == 3
    other, other_result = fit([images[:4].numpy(), images[4:].numpy()])
    assert result.history == other_result.history and same_state(model.state_dict(), other.state_dict())


def test_images_with_labels_are_taken_without_the_labels(fit):
    images = slices(8)
    labelled = [(image, torch.tensor(0)) for image in images]
    _, result = fit(DataLoader(labelled, batch_size=4))
    _, plain = fit(DataLoader(images, batch_size=4))
    assert result.history == plain.history


def test_data_are_not_changed(fit):
    images = slices(8)
    before = images.clone()
    fit(images)
    assert torch.equal(images, before)


def test_grey_levels_are_normalised_on_the_fly(fit):
    grey = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 1, 8, 8), dtype=np.uint8))
    _, result = fit(grey)
    _, normalised = fit(grey.float() / 127.5 - 1)
    assert result.history == pytest.approx(normalised.history, rel=1e-5)


def test_the_callback_is_told_of_each_epoch(fit):
    seen = []
    _, result = fit(slices(8), callback=seen.append)
    assert [info.epoch for info in seen] == [0, 1, 2]
    assert [info.loss for info in seen] == result.history
    assert all(info.images_per_second > 0 and info.lr > 0 for info in seen)
    assert type(seen[0].ema) is type(result.ema)


def test_returning_false_ends_the_run_there(fit):
    _, result = fit(slices(8), epochs=10, callback=lambda info: info.epoch < 1)
    assert len(result.history) == 2 and result.epochs_run == 2
    _, result = fit(slices(8), callback=lambda info: None)
    assert result.epochs_run == 3, "None means: go on"


def test_an_exception_in_the_callback_or_the_data_comes_through(fit):
    def fail(info):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        fit(slices(8), callback=fail)

    class Broken(Slices):
        def __getitem__(self, index):
            raise LookupError(f"image {index}")

    with pytest.raises(LookupError, match="image"):
        fit(DataLoader(Broken(slices(8)), batch_size=4))


def test_the_bar_shows_epochs_and_losses_and_can_be_silent(fit, capfd):
    fit(slices(8))
    assert capfd.readouterr() == ("", "")
    _, result = fit(slices(8), progress=True)
    shown = "".join(capfd.readouterr())
    assert "3/3" in shown and "avg=" in shown and f"{result.history[-1]:.3f}"[:4] in shown


def test_the_model_comes_back_trained_in_place_and_gradients_do_not_pile_up(fit):
    model, result = fit(slices(8))
    assert all(p.requires_grad and torch.isfinite(p).all() for p in model.parameters())
    assert not any(p.requires_grad for p in result.ema.shadow.parameters()) and not result.ema.shadow.training


def test_a_folder_of_images_is_read(rd, fit, tmp_path):
    for k, image in enumerate(slices(4, size=64)):
        levels = ((image[0] + 1) * 127.5).round().to(torch.uint8).numpy()
        Image.fromarray(levels).save(tmp_path / f"{k}.png")
    _, by_path = fit(tmp_path)
    _, by_hand = fit(rd.load_images(tmp_path, progress=False))
    files = sorted(tmp_path.iterdir())
    _, by_list = fit(files)
    assert by_path.history == by_hand.history == by_list.history


def test_files_that_are_not_there_are_called_by_the_argument_that_names_them(fit, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^data: there is no file or folder .*nowhere$"):
        fit(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"^val_data: 1 of 1 files cannot be read"):
        fit(slices(4), val_data=[tmp_path / "nowhere.png"])


def test_an_iterator_is_no_data_for_a_run_in_minutes(fit):
    with pytest.raises(ValueError, match=r"data is an iterator.* and is read more often"):
        fit(iter([slices(4)]), epochs=60, minutes=1, lr_schedule="constant")


class Dicts(torch.utils.data.Dataset):
    """Images as a data set of several modalities gives them."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"patient": f"P{index}", "image": self.images[index]}


def test_of_dicts_the_images_are_taken_by_their_key(fit):
    plain, expected = fit(DataLoader(slices(8), batch_size=4))
    model, result = fit(DataLoader(Dicts(slices(8)), batch_size=4), key="image", val_data=Dicts(slices(4)))
    assert result.history == expected.history and len(result.val_history) == len(result.history)
    assert same_state(model.state_dict(), plain.state_dict())


@pytest.mark.parametrize(("key", "message"), [(None, r"say which.*key="), ("slice", "but key is 'slice'")])
def test_dicts_without_the_right_key_are_answered_with_their_keys(fit, key, message):
    with pytest.raises(
        (TypeError, ValueError), match=rf"^data gives dicts with 'patient', 'image'.*{message}"
    ):
        fit(DataLoader(Dicts(slices(8)), batch_size=4), key=key)
