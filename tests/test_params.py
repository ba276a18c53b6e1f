"""CRFParams: what is accepted, and what the named values are."""

from __future__ import annotations

import dataclasses

import pytest

from densecrf_gpu import BilateralKernel, CRFParams, GaussianKernel

PYDENSECRF = CRFParams.pydensecrf()


def test_params_are_given_by_keyword_only() -> None:
    with pytest.raises(TypeError):
        CRFParams(3, 3, 80, 13, 10)  # type: ignore[misc]


def test_params_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PYDENSECRF.gaussian_sxy = 5  # type: ignore[misc]


def test_equal_params_compare_equal() -> None:
    assert CRFParams.pydensecrf() == PYDENSECRF != CRFParams.deeplab_v1()


@pytest.mark.parametrize("name", ["gaussian_sxy", "bilateral_sxy", "bilateral_srgb"])
@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), (3.0, 0.0)])
def test_bandwidths_must_be_positive_and_finite(name: str, bad: float) -> None:
    with pytest.raises(ValueError, match=f"{name} to be positive and finite"):
        dataclasses.replace(PYDENSECRF, **{name: bad})


@pytest.mark.parametrize("name", ["gaussian_weight", "bilateral_weight"])
def test_weights_must_be_finite(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} to be finite, found nan"):
        dataclasses.replace(PYDENSECRF, **{name: float("nan")})


def test_kernels_stand_in_the_order_of_pydensecrf() -> None:
    assert [type(kernel) for kernel in PYDENSECRF.kernels()] == [GaussianKernel, BilateralKernel]


def test_kernel_of_weight_zero_is_left_out() -> None:
    params = dataclasses.replace(PYDENSECRF, gaussian_weight=0)
    assert [type(kernel) for kernel in params.kernels()] == [BilateralKernel]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("pydensecrf", (3, 3, 80, 13, 10)),
        ("deeplab_v1", (3, 3, 50, 10, 5)),
        ("deeplab_v2_vgg", (3, 3, 49, 5, 4)),
        ("deeplab_v2_resnet101", (1, 3, 67, 3, 4)),
        ("crf_as_rnn", (3, 3, 160, 3, 5)),
    ],
)
def test_presets_hold_the_published_values(name: str, values: tuple[float, ...]) -> None:
    assert dataclasses.astuple(CRFParams.presets()[name]) == values


def test_every_preset_says_where_it_comes_from() -> None:
    for name in CRFParams.presets():
        assert len(getattr(CRFParams, name).__doc__) > 40
