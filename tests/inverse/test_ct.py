"""The projectors of computed tomography: known numbers, exact adjoints, the same bits however they are called."""

import math

import numpy as np
import pytest
import torch

from rust_diffusion import operators


def half_turn(n):
    return np.linspace(0, np.pi, n, endpoint=False)


@pytest.fixture(scope="module")
def course():
    return operators.CTProjector((64, 64), half_turn(60))


def small(geometry="parallel", size=(9, 11)):
    angles = np.linspace(0, 2 * np.pi, 7, endpoint=False) + 0.1
    return operators.CTProjector(size, angles, 17, geometry=geometry, source_origin=40.0, origin_det=15.0)


def matrix(K, dtype=torch.float64):
    """K as a dense matrix, from its images of single pixels."""
    pixels = K.nx * K.ny
    return K(torch.eye(pixels, dtype=dtype).view(pixels, 1, K.nx, K.ny)).flatten(1).T


def test_the_course_geometry_has_its_sizes(course):
    assert (course.det_size, course.n_angles) == (92, 60)
    assert (course.nx, course.ny, course.mx, course.my) == (64, 64, 60, 92)
    assert course(torch.zeros(2, 1, 64, 64)).shape == (2, 1, 60, 92)
    assert operators.CTProjector((256, 256), [0.0]).det_size == 364


def test_the_matrix_has_the_known_weights(course):
    dense = matrix(course, torch.float32)
    # ASTRA has 434,186 weights above 1e-5, and stores 442,360, zeros among them
    assert abs((dense > 1e-5).sum().item() - 434_186) <= 4
    assert (dense >= 0).all()


def test_sums_of_rays_are_the_known_ones(course):
    y = course(torch.ones(1, 1, 64, 64, dtype=torch.float64))
    assert y.sum().item() / 60 == pytest.approx(4096.11, abs=0.01)
    assert y.max().item() == pytest.approx(89.510, abs=1e-3)


@pytest.mark.parametrize(
    "angles,norm", [(half_turn(60), 60.89), (half_turn(20), 35.17), (half_turn(60) * 2 / 3, 61.42)]
)
def test_norms_are_the_known_ones(angles, norm):
    assert operators.CTProjector((64, 64), angles).norm() == pytest.approx(norm, abs=0.01)


def test_one_pixel_casts_the_known_shadows():
    K = operators.CTProjector((64, 64), half_turn(4))
    x = torch.zeros(1, 1, 64, 64)
    x[..., 20, 30] = 1
    expected = torch.zeros(4, 92)
    for view, bin_, value in [
        (0, 44, 1.0), (1, 52, 0.2721), (1, 53, 0.5564), (2, 57, 1.0), (3, 54, 0.0294), (3, 55, 0.7990)
    ]:  # fmt: skip
        expected[view, bin_] = value
    assert (K(x)[0, 0] - expected).abs().max() < 1e-4


def test_a_fan_from_far_away_is_parallel():
    angles = half_turn(9)
    far = operators.CTProjector((12, 10), angles, 20, "fanflat", source_origin=1e9, origin_det=0.0)
    near = operators.CTProjector((12, 10), angles, 20)
    x = torch.rand(1, 1, 12, 10, dtype=torch.float64)
    assert (far(x) - near(x)).abs().max() < 1e-5


def test_a_fan_enlarges_what_is_near_its_source():
    K = operators.CTProjector((31, 31), [0.0], 63, "fanflat", source_origin=60.0, origin_det=40.0)
    x = torch.zeros(2, 1, 31, 31)
    x[0, 0, 5, 23] = 1  # 8 columns right of the centre, 10 rows above: 70 from the source
    x[1, 0, 25, 23] = 1  # 10 rows below: 50 from it
    y = K(x)[:, 0, 0]
    bins = torch.arange(63.0)
    places = (y * bins).sum(1) / y.sum(1) - 31
    assert torch.allclose(places, torch.tensor([8 * 100 / 70, 8 * 100 / 50]), atol=0.2)


@pytest.mark.parametrize("geometry", ["parallel", "fanflat"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype,most", [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_the_adjoint_is_exact(geometry, batch, dtype, most):
    for K in (small(geometry), operators.CTProjector((64, 64), half_turn(60), geometry=geometry)):
        x = torch.randn(batch, 2, K.nx, K.ny, dtype=dtype)
        y = torch.randn(batch, 2, K.mx, K.my, dtype=dtype)
        kx, kty = K(x), K.T(y)
        error = ((kx * y).double().sum() - (x * kty).double().sum()).abs() / (kx.norm() * y.norm())
        assert error <= most
        assert kx.dtype == kty.dtype == dtype
    assert K.T.T is K


@pytest.mark.parametrize("geometry", ["parallel", "fanflat"])
def test_single_and_double_precision_agree(geometry):
    K = small(geometry)
    x, y = torch.randn(4, 1, 9, 11).double(), torch.randn(4, 1, 7, 17).double()
    assert torch.allclose(K(x.float()).double(), K(x), atol=1e-5)
    assert torch.allclose(K.T(y.float()).double(), K.T(y), atol=1e-5)


@pytest.mark.parametrize("geometry", ["parallel", "fanflat"])
def test_gradients_are_the_adjoint_twice(geometry):
    K = small(geometry, size=(5, 4))
    x = torch.randn(2, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 1, 7, 17, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(K, x) and torch.autograd.gradgradcheck(K, x)
    assert torch.autograd.gradcheck(K.T, y)
    assert torch.autograd.gradgradcheck(lambda x: K(x).pow(3), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("geometry", ["parallel", "fanflat"])
def test_bits_depend_neither_on_threads_nor_on_the_batch(geometry, dtype):
    K = operators.CTProjector((40, 33), half_turn(11), 60, geometry=geometry)
    x, y = torch.randn(21, 1, 40, 33, dtype=dtype), torch.randn(21, 1, 11, 60, dtype=dtype)
    torch.set_num_threads(1)
    kx, kty = K(x), K.T(y)
    torch.set_num_threads(2)
    for size in (1, 2, 8, 16, 21):
        assert torch.equal(K(x[:size]), kx[:size])
        assert torch.equal(K.T(y[:size]), kty[:size])
    assert torch.equal(K(x[20:]), kx[20:])


def test_layouts_and_numpy_make_no_difference():
    K = small()
    x = torch.randn(2, 3, 9, 11)
    expected = K(x)
    assert torch.equal(K(x.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(K(x.numpy()), expected)
    assert torch.equal(K @ x, expected)
    assert torch.equal(K.T @ expected, K.T(expected.numpy()))


def test_the_proximal_point_is_the_dense_solution():
    K = small()
    A = matrix(K)
    z, y = torch.randn(2, 1, 9, 11).double(), torch.randn(2, 1, 7, 17).double()
    got = K.prox(z, y, 0.3)
    right = A.T @ y.flatten(1).T + z.flatten(1).T / 0.3
    expected = torch.linalg.solve(A.T @ A + torch.eye(99).double() / 0.3, right)
    assert (got.flatten(1).T - expected).abs().max() < 1e-8


def disc(size):
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    radius = torch.hypot(place[:, None], place[None, :])
    return torch.sigmoid((size / 4 - radius) / 2)[None, None]


@pytest.mark.parametrize("filter_", ["ram-lak", "shepp-logan", "cosine", "hamming", "hann"])
def test_filtered_back_projection_gives_the_image_back(filter_):
    K = operators.CTProjector((48, 48), half_turn(90))
    x = disc(48)
    error = (K.FBP(K(x), filter_) - x).square().mean().sqrt()
    assert error < 0.02


def test_filtered_back_projection_of_a_fan_gives_the_image_back():
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    K = operators.CTProjector((48, 48), angles, 120, "fanflat", source_origin=120.0, origin_det=60.0)
    x = disc(48)
    assert (K.FBP(K(x)) - x).square().mean().sqrt() < 0.02


@pytest.mark.parametrize(
    "angles,geometry,text",
    [
        (np.array([0.0, 0.1, 0.5, 2.0]), "parallel", "weighs every angle alike"),
        (np.linspace(0, np.pi, 60, endpoint=False), "fanflat", "needs angles over a whole turn"),
    ],
)
def test_filtered_back_projection_tells_where_its_image_is_poor(angles, geometry, text):
    K = operators.CTProjector((16, 16), angles, 40, geometry, source_origin=60.0, origin_det=40.0)
    with pytest.warns(UserWarning, match=text):
        K.FBP(torch.zeros(1, 1, len(angles), 40))


def test_a_known_background_is_no_edge():
    K = operators.CTProjector((48, 48), half_turn(20))
    x = 2 * disc(48) - 1
    plain, dark = K.FBP(K(x)), K.FBP(K(x), background=-1)
    assert (dark - x).square().mean() < 0.5 * (plain - x).square().mean()


def test_filtered_back_projection_is_differentiable_and_treats_images_for_themselves():
    K = small()
    y = torch.randn(3, 2, 7, 17, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(K.FBP, y[:1, :1].detach().requires_grad_())
    assert torch.equal(K.FBP(y[1:2]), K.FBP(y)[1:2])
    assert K.FBP(y.detach().float().numpy()).dtype == torch.float32


def test_what_the_course_says_of_astra_and_the_gpu_is_not_needed():
    K = operators.CTProjector((8, 8), [0.0], 12, use_gpu=True, astra_projector="linear", device="cuda")
    assert K.det_size == 12
    with pytest.raises(TypeError, match="'detsize'"):
        operators.CTProjector((8, 8), [0.0], detsize=12)


@pytest.mark.parametrize(
    "error,match,arguments",
    [
        (ValueError, "angles must ascend", dict(angles=[0.0, 2.0, 1.0])),
        (ValueError, "angles must ascend", dict(angles=[0.0, 0.0])),
        (ValueError, "angles must be finite", dict(angles=[0.0, math.nan])),
        (ValueError, "radians", dict(angles=[0.0, 90.0])),
        (ValueError, "at least one angle", dict(angles=[])),
        (ValueError, r"\(n_angles,\)", dict(angles=[[0.0, 1.0]])),
        (TypeError, "angles", dict(angles="all")),
        (TypeError, "angles must hold real numbers", dict(angles=torch.tensor([0j, 1j]))),
        (TypeError, "angles must hold real numbers", dict(angles=np.array([0j, 1j]))),
        (TypeError, "angles must be", dict(angles=[0j, 1j])),
        (TypeError, "angles must be", dict(angles=[[0.0], [1.0, 2.0]])),
        (ValueError, "det_size", dict(det_size=0)),
        (ValueError, "det_size", dict(det_size=10**9)),
        (TypeError, "det_size", dict(det_size=9.5)),
        (ValueError, "geometry", dict(geometry="cone")),
        (ValueError, "source_origin", dict(geometry="fanflat", source_origin=4.0)),
        (ValueError, "origin_det", dict(geometry="fanflat", origin_det=-1.0)),
        (ValueError, "origin_det", dict(geometry="fanflat", origin_det=1e30)),
        (ValueError, "angles must be at most 65536", dict(angles=np.linspace(0, 3.1, 70000))),
        (ValueError, "img_shape", dict(img_shape=(0, 8))),
    ],
)
def test_a_geometry_that_makes_no_sense_is_refused_in_words(error, match, arguments):
    with pytest.raises(error, match=match):
        operators.CTProjector(**{"img_shape": (8, 8), "angles": [0.0, 1.0], **arguments})


def test_images_and_sinograms_of_other_sizes_are_refused_in_words():
    K = small()
    for wrong in (torch.zeros(1, 1, 9, 9), torch.zeros(9, 11), torch.zeros(0, 1, 9, 11)):
        with pytest.raises(ValueError, match="x must have the shape"):
            K(wrong)
    for call in (K.T, K.FBP):
        with pytest.raises(
            ValueError, match=r"must have the shape of the operator's .* \(N, C, 7, 17\), got"
        ):
            call(torch.zeros(1, 1, 7, 16))
    with pytest.raises(TypeError, match="float32 or float64"):
        K(torch.zeros(1, 1, 9, 11, dtype=torch.int64))
    with pytest.raises(ValueError, match="filter"):
        K.FBP(torch.zeros(1, 1, 7, 17), "ramp")


@pytest.mark.parametrize("n,angles,det", [(64, half_turn(60), 92), (24, half_turn(17) + 0.2, 40)])
def test_sinograms_are_those_of_astra(n, angles, det):
    astra = pytest.importorskip("astra")
    volume = astra.create_vol_geom(n, n)
    projector = astra.create_projector("linear", astra.create_proj_geom("parallel", 1.0, det, angles), volume)
    theirs = torch.from_numpy(astra.matrix.get(astra.projector.matrix(projector)).toarray())
    K = operators.CTProjector((n, n), angles, det)
    # ASTRA computes places in float32, so that single weights are known to some 3e-4
    assert (matrix(K, torch.float32) - theirs).abs().max() < 5e-4
    for x in (disc(n), torch.rand(1, 1, n, n, dtype=torch.float64)):
        expected = theirs @ x.flatten()
        assert (K(x).flatten() - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.cuda
@pytest.mark.parametrize("geometry", ["parallel", "fanflat"])
def test_a_gpu_has_the_same_weights(geometry):
    K = small(geometry)
    x, y = torch.randn(2, 1, 9, 11).double(), torch.randn(2, 1, 7, 17).double()
    assert torch.allclose(K(x.cuda()).cpu(), K(x), atol=1e-12)
    assert torch.allclose(K.T(y.cuda()).cpu(), K.T(y), atol=1e-12)
    assert torch.allclose(K.FBP(y.cuda()).cpu(), K.FBP(y), atol=1e-12)
