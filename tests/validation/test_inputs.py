"""Stored, generated and image inputs, and their conversion to a model's element types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from dcn_deploy.errors import DtypeError, InvalidArgumentError
from dcn_deploy.runtime.runner import TensorSpec
from dcn_deploy.validation import inputs

F32, F16, U8, I64 = (np.dtype(t) for t in (np.float32, np.float16, np.uint8, np.int64))


def spec(name="input", dtype=F32, shape=("n", 3, 8, 8)):
    return TensorSpec(name, dtype, shape)


class TestConform:
    def test_rounds_to_the_storage_type(self):
        values = np.array([1.0, 1.0 + 2**-12, 3.14159])
        half = inputs.conform({"x": values}, [spec("x", F16, (3,))], "test")["x"]
        assert half.dtype == np.float16
        np.testing.assert_array_equal(half, values.astype(np.float16))
        brain = inputs.conform({"x": values}, [spec("x", np.dtype(ml_dtypes.bfloat16), (3,))], "test")["x"]
        assert brain.dtype == ml_dtypes.bfloat16

    def test_what_half_cannot_hold_becomes_infinite(self):
        assert np.isinf(inputs.conform({"x": np.array([1e6])}, [spec("x", F16, (1,))], "test")["x"]).all()

    def test_open_specs_take_what_comes(self):
        array = np.zeros((2, 2), np.float16)
        assert inputs.conform({"x": array}, [TensorSpec("x", None, None)], "test")["x"] is array

    def test_missing_and_unknown_names_with_a_hint(self):
        with pytest.raises(
            InvalidArgumentError,
            match=r"arrays of a\.npz: expected one for each input \(image, scale\), got img, scale "
            r"\(missing: image\) \(unknown: img\)\. Did you mean to rename 'img' to 'image'\?",
        ):
            inputs.conform({"img": 0, "scale": 0}, [spec("image"), spec("scale")], "a.npz")

    def test_wrong_rank_and_extent(self):
        with pytest.raises(InvalidArgumentError, match=r"expected rank 4 \[n, 3, 8, 8\], got shape \[3, 8, 8\]"):
            inputs.conform({"input": np.zeros((3, 8, 8))}, [spec()], "test")
        with pytest.raises(InvalidArgumentError, match=r"expected shape \[n, 3, 8, 8\], got \[1, 3, 8, 9\] \(axis 3\)"):
            inputs.conform({"input": np.zeros((1, 3, 8, 9))}, [spec()], "test")

    def test_axes_of_one_name_agree(self):
        specs = [spec("a", F32, ("n", 2)), spec("b", F32, ("n",))]
        with pytest.raises(InvalidArgumentError, match="expected 'n' = 2 on axis 0, as in input 'a', got 3"):
            inputs.conform({"a": np.zeros((2, 2)), "b": np.zeros(3)}, specs, "test")

    def test_conversions_that_change_the_meaning_are_refused(self):
        with pytest.raises(DtypeError, match="expected element type int64, got float64"):
            inputs.conform({"x": np.array([1.5])}, [spec("x", I64, (1,))], "test")
        with pytest.raises(DtypeError, match="expected values that uint8 can hold, got int64 values beyond its range"):
            inputs.conform({"x": np.array([300])}, [spec("x", U8, (1,))], "test")
        assert inputs.conform({"x": np.array([255])}, [spec("x", U8, (1,))], "test")["x"].dtype == np.uint8


class TestGenerated:
    def test_free_axes_get_defaults(self):
        specs = [
            spec("image", F32, ("n", 3, None, "w")),
            spec("tokens", I64, ("n", "t")),
            spec("flag", np.dtype(bool), ()),
        ]
        feed = next(iter(inputs.generated(specs, seed=3)))
        assert feed.arrays["image"].shape == (1, 3, 224, 224)
        assert feed.arrays["tokens"].shape == (1, 16)
        assert feed.arrays["flag"].shape == ()
        assert feed.arrays["image"].dtype == np.float32
        assert feed.arrays["tokens"].dtype == np.int64
        assert feed.arrays["flag"].dtype == bool

    def test_given_shapes_reach_axes_of_the_same_name(self):
        specs = [spec("a", F32, ("n", 2)), spec("b", F32, ("n",))]
        feed = next(iter(inputs.generated(specs, shapes={"b": (5,)})))
        assert feed.arrays["a"].shape == (5, 2)

    def test_is_reproducible_and_independent_of_the_count(self):
        two, five = inputs.generated([spec()], count=2, seed=7), inputs.generated([spec()], count=5, seed=7)
        assert (len(two), len(five)) == (2, 5)
        for a, b in zip(two, five, strict=False):
            np.testing.assert_array_equal(a.arrays["input"], b.arrays["input"])
        samples = [feed.arrays["input"] for feed in five]
        assert not np.array_equal(samples[0], samples[1])
        again = [feed.arrays["input"] for feed in five]
        np.testing.assert_array_equal(samples[4], again[4])
        other = next(iter(inputs.generated([spec()], seed=8))).arrays["input"]
        assert not np.array_equal(samples[0], other)

    def test_is_standard_normal(self):
        values = next(iter(inputs.generated([spec(shape=(8, 3, 64, 64))], seed=1))).arrays["input"]
        assert abs(values.mean()) < 0.02
        assert abs(values.std() - 1) < 0.02

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            ({"other": (1,)}, r"--shape: expected an input of the model \(input\), got other"),
            ({"input": (1, 3, 8)}, r"expected \[n, 3, 8, 8\], got \[1, 3, 8\]"),
            ({"input": (1, 4, 8, 8)}, r"expected \[n, 3, 8, 8\], got \[1, 4, 8, 8\]"),
        ],
    )
    def test_shapes_that_do_not_fit(self, shapes, message):
        with pytest.raises(InvalidArgumentError, match=message):
            inputs.generated([spec()], shapes=shapes)

    def test_unknown_rank_needs_a_shape(self):
        with pytest.raises(InvalidArgumentError, match=r"got an input of unknown rank\. Give --shape x="):
            inputs.generated([TensorSpec("x", F32, None)])
        feed = next(iter(inputs.generated([TensorSpec("x", F32, None)], shapes={"x": (2,)})))
        assert feed.arrays["x"].shape == (2,)

    def test_text_is_refused(self):
        with pytest.raises(DtypeError, match=r"Give the inputs in an \.npz file"):
            inputs.generated([spec("x", np.dtype(object), (1,))])

    def test_count(self):
        with pytest.raises(InvalidArgumentError, match="number of samples: expected at least 1, got 0"):
            inputs.generated([spec()], count=0)


class TestNpz:
    specs = (spec("a", F32, ("n", 2)), spec("b", I64, ("n",)))

    @property
    def arrays(self):
        return {"a": np.ones((3, 2)), "b": np.arange(3)}

    def test_names_match(self, tmp_path):
        np.savez(tmp_path / "x.npz", **self.arrays)
        (feed,) = inputs.from_npz(tmp_path / "x.npz", self.specs)
        assert feed.name == "x.npz"
        assert feed.arrays["a"].dtype == np.float32
        np.testing.assert_array_equal(feed.arrays["b"], [0, 1, 2])

    def test_positional_arrays(self, tmp_path):
        np.savez(tmp_path / "x.npz", *self.arrays.values())
        (feed,) = inputs.from_npz(tmp_path / "x.npz", self.specs)
        assert feed.arrays["a"].shape == (3, 2)

    def test_several_batches_and_several_files(self, tmp_path):
        np.savez(tmp_path / "x.npz", **{f"{i}/{k}": v + i for i in range(3) for k, v in self.arrays.items()})
        np.savez(tmp_path / "y.npz", **{f"input:{k}": v + 9 for k, v in self.arrays.items()})
        feeds = inputs.from_npz([tmp_path / "x.npz", tmp_path / "y.npz"], self.specs)
        assert len(feeds) == 4
        assert [feed.name for feed in feeds] == ["x.npz[0]", "x.npz[1]", "x.npz[2]", "y.npz"]
        assert [feed.arrays["b"][0] for feed in feeds] == [0, 1, 2, 9]
        assert "4 feeds of x.npz, y.npz" in feeds.description

    def test_eleven_batches_come_in_numeric_order(self, tmp_path):
        np.savez(tmp_path / "x.npz", **{f"{i}/b": np.array([i]) for i in range(11)})
        feeds = inputs.from_npz(tmp_path / "x.npz", self.specs[1:])
        assert [int(feed.arrays["b"][0]) for feed in feeds] == list(range(11))

    def test_names_that_do_not_match(self, tmp_path):
        np.savez(tmp_path / "x.npz", a=self.arrays["a"], bb=self.arrays["b"])
        with pytest.raises(InvalidArgumentError, match=r"arrays of x\.npz: .*Did you mean to rename 'bb' to 'b'\?"):
            inputs.from_npz(tmp_path / "x.npz", self.specs)

    def test_gaps_and_mixtures(self, tmp_path):
        for keys in ({"0/b": 0, "2/b": 0}, {"0/b": 0, "b": 0}):
            np.savez(tmp_path / "x.npz", **keys)
            with pytest.raises(InvalidArgumentError, match="all of the form 0/NAME, 1/NAME, … without a gap"):
                inputs.from_npz(tmp_path / "x.npz", self.specs[1:])

    def test_files_that_are_none(self, tmp_path):
        with pytest.raises(InvalidArgumentError, match=r"expected an \.npz file, got no file"):
            inputs.from_npz(tmp_path / "absent.npz", self.specs)
        (tmp_path / "text.npz").write_text("no archive")
        np.save(tmp_path / "single.npy", np.zeros(2))
        (tmp_path / "single.npy").rename(tmp_path / "single.npz")
        (tmp_path / "empty.npz").write_bytes(b"")
        np.savez(tmp_path / "pickled.npz", a=np.array([{}], object))
        np.savez(tmp_path / "nothing.npz")
        for name in ("text", "single", "empty", "pickled", "nothing"):
            with pytest.raises(InvalidArgumentError, match=r"numpy\.savez"):
                inputs.from_npz(tmp_path / f"{name}.npz", self.specs)


class TestImages:
    @pytest.fixture
    def folder(self, tmp_path):
        # Of one colour each, so that resizing leaves them as they are.
        for index, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30), (255, 255, 255)]):
            Image.new("RGB", (12 + index, 9), colour).save(tmp_path / f"{index}.png")
        (tmp_path / "notes.txt").write_text("no image")
        (tmp_path / "deeper").mkdir()
        return tmp_path

    def test_rgb_is_normalised_with_imagenet_figures(self, folder):
        feeds = inputs.images(folder, [spec()])
        assert len(feeds) == 5
        first = next(iter(feeds))
        assert first.name == "0.png"
        image = first.arrays["input"]
        assert image.shape == (1, 3, 8, 8)
        assert image.dtype == np.float32
        expected = (np.array([1, 0, 0]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(image[0, :, 4, 4], expected, rtol=1e-6)

    def test_given_mean_and_std(self, folder):
        feed = list(inputs.images(folder, [spec()], mean=[0.5], std=[0.25, 0.5, 1.0]))[3]
        expected = (np.array([10, 20, 30]) / 255 - 0.5) / [0.25, 0.5, 1.0]
        np.testing.assert_allclose(feed.arrays["input"][0, :, 0, 0], expected, rtol=1e-5)

    def test_grey_by_the_number_of_channels(self, folder):
        feed = list(inputs.images(folder, [spec(shape=("n", 1, 8, 8))]))[4]
        assert feed.arrays["input"].shape == (1, 1, 8, 8)
        np.testing.assert_allclose(feed.arrays["input"], (1 - 0.449) / 0.226, rtol=1e-5)

    def test_bytes_stay_bytes_and_channels_last(self, folder):
        feed = list(inputs.images(folder, [spec(dtype=U8, shape=(1, 8, 8, 3))]))[3]
        assert feed.arrays["input"].dtype == np.uint8
        np.testing.assert_array_equal(feed.arrays["input"][0, 5, 5], [10, 20, 30])

    def test_batches_in_sorted_order_with_a_short_last_one(self, folder):
        feeds = inputs.images(folder, [spec()], batch=2)
        assert [feed.arrays["input"].shape[0] for feed in feeds] == [2, 2, 1]
        assert [feed.name for feed in feeds] == ["0.png … 1.png", "2.png … 3.png", "4.png"]

    def test_fixed_batch_is_filled_up(self, folder):
        feeds = inputs.images(folder, [spec(shape=(2, 3, 8, 8))])
        last = list(feeds)[-1].arrays["input"]
        assert last.shape[0] == 2
        np.testing.assert_array_equal(last[0], last[1])

    def test_limit_and_shape(self, folder):
        feeds = inputs.images(folder, [spec(shape=("n", 3, "h", "w"))], limit=2, shape=(1, 3, 4, 6))
        assert len(feeds) == 2
        assert next(iter(feeds)).arrays["input"].shape == (1, 3, 4, 6)

    def test_upright_as_exif_says(self, tmp_path):
        picture = Image.new("RGB", (8, 8), (0, 0, 0))
        picture.paste((255, 255, 255), (0, 0, 8, 4))
        exif = Image.Exif()
        exif[0x0112] = 3  # taken upside down
        picture.save(tmp_path / "a.png", exif=exif)
        image = next(iter(inputs.images(tmp_path, [spec(dtype=U8)]))).arrays["input"]
        assert image[0, 0, 0, 0] == 0
        assert image[0, 0, 7, 0] == 255

    def test_broken_image(self, tmp_path):
        (tmp_path / "broken.png").write_bytes(b"\x89PNG but not really")
        with pytest.raises(InvalidArgumentError, match=r"image '.*broken\.png': expected a readable image"):
            next(iter(inputs.images(tmp_path, [spec()])))

    @pytest.mark.parametrize(
        ("specs", "options", "message"),
        [
            ([spec(), spec("b")], {}, r"expected a single input, got 2 \(input, b\)"),
            ([spec(shape=("n", 3))], {}, "expected rank 4"),
            ([spec(dtype=I64)], {}, "floating-point or unsigned bytes"),
            ([spec(shape=("n", 64, 8, 8))], {}, r"expected 1 \(grey\) or 3 \(RGB\) channels"),
            ([spec()], {"mean": [0.1, 0.2]}, r"mean: expected 1 or 3 values"),
            ([spec()], {"std": [0.0]}, "std: expected positive values"),
            ([spec()], {"limit": 0}, "limit of images: expected at least 1, got 0"),
            ([spec(shape=(2, 3, 8, 8))], {"batch": 3}, "batch of images: expected 2, which the model fixes, got 3"),
        ],
    )
    def test_what_does_not_fit(self, folder, specs, options, message):
        with pytest.raises(InvalidArgumentError, match=message):
            inputs.images(folder, specs, **options)

    def test_folders_without_images(self, tmp_path):
        with pytest.raises(InvalidArgumentError, match="expected image files"):
            inputs.images(tmp_path, [spec()])
        with pytest.raises(InvalidArgumentError, match="expected a folder"):
            inputs.images(tmp_path / "absent", [spec()])
