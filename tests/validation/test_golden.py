"""Files with inputs and golden outputs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dcn_deploy.errors import InvalidArgumentError
from dcn_deploy.runtime.runner import TensorSpec
from dcn_deploy.validation import inputs
from dcn_deploy.validation.golden import read_golden, read_origin, save_golden

SPECS = (TensorSpec("x", np.dtype(np.float32), ("n", 2)),)
X = np.arange(4.0).reshape(2, 2)


def test_prefixed_keys(tmp_path):
    np.savez(tmp_path / "g.npz", **{"input:x": X, "output:y": X + 1, "output:z": X + 2})
    (feed,) = read_golden(tmp_path / "g.npz", SPECS, ("y", "z"))
    assert feed.arrays["x"].dtype == np.float32
    assert feed.expected is not None
    np.testing.assert_array_equal(feed.expected["z"], X + 2)


def test_plain_keys_say_what_they_are(tmp_path):
    np.savez(tmp_path / "g.npz", x=X, z=X + 2)
    (feed,) = read_golden(tmp_path / "g.npz", SPECS, ("y", "z"))
    assert set(feed.arrays) == {"x"}
    assert feed.expected is not None
    assert set(feed.expected) == {"z"}


def test_a_key_on_both_sides_needs_its_prefix(tmp_path):
    np.savez(tmp_path / "g.npz", x=X)
    with pytest.raises(
        InvalidArgumentError, match=r"key 'x' of 'g\.npz': .*got both\. Write it as input:x or output:x"
    ):
        read_golden(tmp_path / "g.npz", SPECS, ("x",))


def test_keys_of_neither_side(tmp_path):
    np.savez(tmp_path / "g.npz", x=X, w=X)
    with pytest.raises(InvalidArgumentError, match=r"key 'w' of 'g\.npz': expected an input \(x\) or an output \(y\)"):
        read_golden(tmp_path / "g.npz", SPECS, ("y",))
    np.savez(tmp_path / "g.npz", **{"input:x": X, "output:w": X})
    with pytest.raises(InvalidArgumentError, match=r"golden outputs of 'g\.npz': expected outputs of the model \(y\)"):
        read_golden(tmp_path / "g.npz", SPECS, ("y",))


def test_outputs_alone_need_inputs_from_elsewhere(tmp_path):
    np.savez(tmp_path / "g.npz", y=X)
    with pytest.raises(InvalidArgumentError, match=r"got neither\. Give --inputs with x"):
        read_golden(tmp_path / "g.npz", SPECS, ("y",))
    given = inputs.generated(SPECS, shapes={"x": (2, 2)})
    (feed,) = read_golden(tmp_path / "g.npz", SPECS, ("y",), given)
    assert feed.expected is not None
    assert feed.arrays["x"].shape == (2, 2)
    with pytest.raises(InvalidArgumentError, match=r"feeds for 'g\.npz': expected 1, one for each of its sets, got 2"):
        read_golden(tmp_path / "g.npz", SPECS, ("y",), inputs.generated(SPECS, count=2))
    np.savez(tmp_path / "both.npz", x=X, y=X)
    with pytest.raises(InvalidArgumentError, match=r"got both\. Drop --inputs"):
        read_golden(tmp_path / "both.npz", SPECS, ("y",), given)


def test_inputs_alone_are_no_golden_file(tmp_path):
    np.savez(tmp_path / "g.npz", x=X)
    with pytest.raises(InvalidArgumentError, match=r"expected golden outputs \(y\), got only x\. .*--save-golden"):
        read_golden(tmp_path / "g.npz", SPECS, ("y",))


@pytest.mark.parametrize("count", [1, 3])
def test_round_trip(tmp_path, count):
    sets = [({"x": (X + i).astype(np.float32)}, {"y": X * i, "file": np.arange(3) + i}) for i in range(count)]
    save_golden(tmp_path / "g.npz", sets, {"oracle": "a test", "weights_sha256": "abc"})
    feeds = list(read_golden(tmp_path / "g.npz", SPECS, ("y", "file")))
    assert len(feeds) == count
    for feed, (fed, expected) in zip(feeds, sets, strict=True):
        np.testing.assert_array_equal(feed.arrays["x"], fed["x"])
        assert feed.expected is not None
        np.testing.assert_array_equal(feed.expected["y"], expected["y"])
        np.testing.assert_array_equal(feed.expected["file"], expected["file"])
        assert feed.expected["y"].dtype == np.float64
    assert read_origin(tmp_path / "g.npz") == {"oracle": "a test", "weights_sha256": "abc"}


def test_bfloat16_survives_as_float32(tmp_path):
    specs = (TensorSpec("x", np.dtype(ml_dtypes.bfloat16), (2, 2)),)
    values = np.array([[1.5, 3.140625], [1e-30, -2.0]], ml_dtypes.bfloat16)
    save_golden(tmp_path / "g.npz", [({"x": values}, {"y": values})], {})
    (feed,) = read_golden(tmp_path / "g.npz", specs, ("y",))
    assert feed.arrays["x"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(feed.arrays["x"], values)
    assert feed.expected is not None
    assert feed.expected["y"].dtype == np.float32


def test_files_that_cannot_be_written(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"expected a path that ends in \.npz"):
        save_golden(tmp_path / "g.bin", [({}, {})], {})
    with pytest.raises(InvalidArgumentError, match="golden file: expected a folder to write it in, got no"):
        save_golden(tmp_path / "absent" / "g.npz", [({"x": X}, {"y": X})], {})
    (tmp_path / "taken.npz").mkdir()
    with pytest.raises(InvalidArgumentError, match="golden file: expected a file that can be written"):
        save_golden(tmp_path / "taken.npz", [({"x": X}, {"y": X})], {})
