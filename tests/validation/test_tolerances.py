"""The table, the two rules that follow from it, and what passes under a limit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.validation import compare
from dcn_deploy.validation.tolerances import (
    ANY,
    DECOMPOSED_ROI_POOL,
    DENSE,
    NETWORK,
    TOLERANCES,
    Limit,
    coordinate_error,
    lookup,
    network_limit,
    offset_error,
)


@pytest.mark.parametrize(
    ("dtype", "target"), [("float32", 1e-6), ("tf32", 1e-3), ("float16", 1e-3), ("bfloat16", 8e-3)]
)
@pytest.mark.parametrize("operator", ["DeformConv2d", "DeformConv", "DeformRoIPool2d", DECOMPOSED_ROI_POOL, "Conv"])
def test_targets_of_the_project(operator, dtype, target):
    # RoI pooling as one node has no product that a runtime takes to TF32.
    expected = 1e-6 if (operator, dtype) == ("DeformRoIPool2d", "tf32") else target
    assert lookup(operator, dtype, "onnxruntime").relative_rms == expected


def test_a_backend_of_its_own_comes_before_any_backend():
    assert lookup("Conv", "float32", "tensorrt").relative_rms == 1e-5
    assert lookup("Conv", "float32", "onnxruntime").relative_rms == 1e-6
    assert lookup("DeformConv2d", "float32", "tensorrt").relative_rms == 1e-6


def test_every_row_has_a_reason_and_positive_figures():
    for key, row in TOLERANCES.items():
        assert row.reason, key
        assert row.relative_rms > 0 or key[0] == NETWORK, key
        assert row.gain >= 1, key


def test_unknown_element_type():
    with pytest.raises(
        InvalidArgumentError, match=r"expected an element type of .*float16.*, got int8\. .*--tolerance"
    ):
        lookup("Conv", "int8", "onnxruntime")


def test_the_limit_grows_with_the_map():
    row = lookup("DeformConv", "float32", "onnxruntime")
    # ε/2·√(H² + W²) with ε = 2⁻²³: a map of 300 × 400 has the diagonal 500
    assert row.at((300, 400)) == pytest.approx(1e-6 + 2**-24 * 500)
    assert row.at(None) == 1e-6
    decomposed = lookup("GridSample", "float32", "onnxruntime")
    assert decomposed.at((300, 400)) == pytest.approx(1e-6 + math.sqrt(5.25) * 2**-24 * 500)
    assert lookup("Conv", "float32", "onnxruntime").at((300, 400)) == 1e-6
    assert lookup("DeformConv2d", "float32", "onnxruntime").at((300, 400)) == 1e-6
    # The network in PyTorch, which whole files are compared with, samples at exact positions whatever their form.
    pooling = lookup(DECOMPOSED_ROI_POOL, "float32", "onnxruntime")
    assert pooling.at((300, 400)) == pytest.approx(1e-6 + math.sqrt(8) * 2**-24 * 500)
    assert lookup("DeformRoIPool2d", "float32", "onnxruntime").at((300, 400)) == 1e-6
    for operator in ("DeformConv2d", "DeformConv", "GridSample", "DeformRoIPool2d", DECOMPOSED_ROI_POOL):
        assert lookup(operator, "float32", "torch").at((300, 400)) == 1e-6


def test_layers_add_in_quadrature():
    gain = TOLERANCES[NETWORK, ANY, ANY].gain
    assert network_limit([3e-6, 4e-6]) == pytest.approx(gain * 5e-6)
    assert network_limit([3e-6]) == 3e-6
    assert network_limit([]) == TOLERANCES[DENSE, "float32", ANY].relative_rms


class TestLimit:
    limit = Limit(1e-3, "test", absolute=1e-30)

    def test_below_and_above(self):
        expected = np.array([3.0, 4.0])
        assert self.limit.judge(compare(expected * (1 + 9e-4), expected)) == ""
        assert self.limit.judge(compare(expected * (1 + 2e-3), expected)) == (
            "relative RMS error 2.00e-03 is above 1.00e-03"
        )

    def test_what_is_flushed_to_zero_passes(self):
        assert self.limit.judge(compare(np.zeros(2), np.full(2, 1e-31))) == ""
        assert self.limit.judge(compare(np.zeros(2), np.full(2, 1e-29)))

    def test_output_where_the_reference_is_zero_fails(self):
        assert "inf" in self.limit.judge(compare(np.ones(2), np.zeros(2)))

    def test_nan_fails_though_all_else_is_equal(self):
        reason = self.limit.judge(compare(np.array([1.0, np.nan]), np.array([1.0, 2.0])))
        assert reason == (
            "1 of 2 elements are NaN or infinite on one side only or differently, first at [1]: nan instead of 2.0"
        )

    def test_equal_nans_pass(self):
        assert self.limit.judge(compare(np.full(3, np.nan), np.full(3, np.nan))) == ""

    def test_shape_fails(self):
        assert "shape" in self.limit.judge(compare(np.zeros(2), np.zeros(3)))

    def test_integers_pass_only_when_equal(self):
        comparison = compare(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]))
        assert self.limit.judge(comparison) == "1 of 4 elements differ, at most a fraction of 0 may"
        assert Limit(0.0, "test", differing=0.25).judge(comparison) == ""
        assert Limit(0.0, "test", differing=0.24).judge(comparison)


def _white_noise_error(rng, height, width, rounded):
    """Relative RMS error of bilinear samples of white noise at ``rounded`` instead of exact coordinates."""
    features = rng.standard_normal((height, width))
    position = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).astype(np.float64)
    offset = (2 * rng.standard_normal((height, width, 2))).astype(np.float32)

    def sample(at):
        low = np.floor(at).astype(int)
        fraction = at - low
        total = np.zeros(at.shape[:2])
        for dy in (0, 1):
            for dx in (0, 1):
                y, x = low[..., 0] + dy, low[..., 1] + dx
                inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                weight = np.abs(1 - dy - fraction[..., 0]) * np.abs(1 - dx - fraction[..., 1])
                total += np.where(inside, features[y.clip(0, height - 1), x.clip(0, width - 1)], 0) * weight
        return total

    exact = sample(position + offset)
    return np.linalg.norm(sample(rounded(position, offset)) - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("extent", [(7, 7), (16, 19), (33, 56), (100, 168), (256, 256), (180, 320), (512, 1024)])
def test_coordinate_error_bounds_what_rounding_does(rng, extent):
    """The bound of one rounding holds, and is no more than an order of magnitude generous."""
    error = _white_noise_error(
        rng, *extent, lambda position, offset: (position.astype(np.float32) + offset).astype(np.float64)
    )
    bound = coordinate_error(*extent)
    assert bound / 10 < error < bound


@pytest.mark.parametrize("relative", [1e-7, 1e-6, 1e-3])
def test_offset_error_is_what_moved_samples_show(rng, relative):
    """√6·d·ε, as an estimate: half of it to all of it, on offsets of two pixels."""
    error = _white_noise_error(
        rng, 100, 100, lambda position, offset: position + offset * (1 + relative * rng.standard_normal(offset.shape))
    )
    assert offset_error(relative) / 2 < error < offset_error(relative)


@pytest.mark.parametrize("extent", [(7, 7), (16, 19), (33, 56), (100, 168), (256, 256), (180, 320), (512, 1024)])
def test_grid_error_bounds_what_normalising_does(rng, extent):
    """The same for the decomposed form: normalised to [-1, 1] and back in float32."""
    size = np.array(extent, np.float32) - np.float32(1)

    def there_and_back(position, offset):
        coordinate = position.astype(np.float32) + offset
        grid = coordinate * (np.float32(2) / size) - np.float32(1)
        return ((grid + np.float32(1)) * (size / np.float32(2))).astype(np.float64)

    error = _white_noise_error(rng, *extent, there_and_back)
    bound = math.sqrt(lookup("GridSample", "float32", "onnxruntime").coordinate_roundings) * coordinate_error(*extent)
    assert bound / 10 < error < bound


@pytest.mark.parametrize("samples", [1, 2, 4])
@pytest.mark.parametrize("extent", [(7, 7), (16, 19), (33, 56), (100, 168), (256, 256), (180, 320)])
def test_roundings_of_a_bin_stay_below_the_bound_of_pooling(rng, extent, samples):
    """Positions of RoI pooling in float32, with small bins and large, against the same in float64."""
    features = rng.standard_normal(extent)
    count, pooled, gamma, scale = 2000, 7, 0.1, 1 / 16
    corners = np.sort(rng.uniform(0, 1, (2, count, 2)) * np.array(extent) / scale, axis=0).astype(np.float32)
    bins = rng.integers(0, pooled, (count, 2))
    offset = rng.standard_normal((count, 2)).astype(np.float32)

    def means(dtype):
        """[count] means of one bin of each RoI; every number on the way to the positions is of ``dtype``."""
        first, second = corners.astype(dtype)
        start = first * dtype(scale) - dtype(0.5)
        size = (second - first) * dtype(scale)
        steps = ((np.arange(samples) + 0.5) / samples)[:, None, None]
        inside = ((bins + steps) / pooled).astype(dtype)
        position = start + size * (inside + offset.astype(dtype) * dtype(gamma))
        assert position.dtype == dtype
        row, column = (position[..., axis].astype(np.float64).clip(0, extent[axis] - 1) for axis in (0, 1))

        def sample(y, x):
            top, left = np.floor(y).astype(int), np.floor(x).astype(int)
            total = np.zeros(count)
            for dy in (0, 1):
                for dx in (0, 1):
                    weight = np.abs(1 - dy - (y - top)) * np.abs(1 - dx - (x - left))
                    total += weight * features[(top + dy).clip(0, extent[0] - 1), (left + dx).clip(0, extent[1] - 1)]
            return total

        return sum(sample(row[i], column[j]) for i in range(samples) for j in range(samples)) / samples**2

    exact = means(np.float64)
    error = np.linalg.norm(means(np.float32) - exact) / np.linalg.norm(exact)
    bound = lookup(DECOMPOSED_ROI_POOL, "float32", "onnxruntime").at(extent) - 1e-6
    assert bound / 30 < error < bound
