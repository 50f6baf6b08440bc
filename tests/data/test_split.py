"""A held-out set of whole patients."""

import pytest
import torch


def patients(**counts):
    return [f"scans/{name}/{k:04}.png" for name, count in counts.items() for k in range(count)]


def folders(files):
    return {file.parent.name for file in files}


def test_no_folder_is_on_both_sides_and_no_file_is_lost(rd):
    files = patients(A=30, B=20, C=25, D=5, E=40)
    for seed in range(5):
        train, held = rd.split_by_folder(files, share=0.3, seed=seed)
        assert not folders(train) & folders(held) and train and held
        assert sorted(map(str, [*train, *held])) == sorted(files)
        assert train == sorted(train) and held == sorted(held)


def test_the_share_is_met_as_nearly_as_folders_allow(rd):
    files = patients(**{f"P{k}": 10 for k in range(20)})
    for share, count in ((0.0, 10), (0.1, 20), (0.26, 50), (0.5, 100), (1.0, 190)):
        assert len(rd.split_by_folder(files, share=share)[1]) == count, share


@pytest.mark.parametrize("share, count", [(0.0, 10), (0.01, 10), (0.02, 20), (0.4, 20)])
def test_a_folder_that_is_too_large_for_the_share_is_left(rd, share, count):
    files = patients(A=1000, B=10, C=10)
    for seed in range(6):
        assert len(rd.split_by_folder(files, share=share, seed=seed)[1]) == count, seed


def test_the_seed_decides(rd):
    files = patients(**{f"P{k}": 10 for k in range(20)})
    assert rd.split_by_folder(files, seed=3) == rd.split_by_folder(files[::-1], seed=3)
    assert len({tuple(rd.split_by_folder(files, seed=seed)[1]) for seed in range(6)}) > 3


def test_both_parts_load(rd, folder):
    train, held = rd.split_by_folder(folder, share=0.5)
    images = torch.cat([rd.load_images(train, 8), rd.load_images(held, 8)])
    assert len(train) == len(held) == 4 and len(images) == 8
    assert folders(train) | folders(held) == {"C002", "C009"}


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(path=patients(A=3)), ValueError, "two folders or more"),
        (dict(path=[]), ValueError, "empty list"),
        (dict(path=3), TypeError, "path"),
        (dict(path="nowhere"), FileNotFoundError, "nowhere"),
        (dict(share=1.5), ValueError, "share"),
        (dict(share="a"), TypeError, "share"),
        (dict(seed=-1), ValueError, "seed"),
    ],
)
def test_arguments_are_checked(rd, arguments, error, message):
    with pytest.raises(error, match=message):
        rd.split_by_folder(**{"path": patients(A=3, B=3), **arguments})
