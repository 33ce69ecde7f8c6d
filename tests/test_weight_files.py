"""Named tensors out of every file format: exact values, and one line for everything that can be
wrong with a file.
"""

import pathlib
import shutil
import sys

import numpy as np
import pytest
import safetensors.numpy

from theseus_jax.errors import UserError
from theseus_jax.nets.weights.containers import open_tensors, read_tensors

GOLDEN = pathlib.Path(__file__).parent / "golden"
ARRAYS = dict(np.load(GOLDEN / "tensors.npz"))
FORMATS = (".safetensors", ".npz", ".pth", ".pt", ".bin")


def refusal(path, call=read_tensors):
    with pytest.raises(UserError) as caught:
        call(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


def written(folder, suffix):
    """The golden arrays in a file of any format."""
    path = folder / f"w{suffix}"
    if suffix == ".safetensors":
        path.write_bytes(safetensors.numpy.save(ARRAYS))
    else:
        source = {
            ".npz": "tensors.npz",
            ".pth": "tensors_zip.pth",
            ".pt": "tensors_stream.pth",
            ".bin": "tensors_zip.pth",
        }[suffix]
        shutil.copy(GOLDEN / source, path)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_arrays(tmp_path, suffix):
    path = written(tmp_path, suffix)
    given, opened = read_tensors(path), open_tensors(path)
    assert len(ARRAYS) == 12 and set(given) == set(ARRAYS)
    for name, wanted in ARRAYS.items():
        array, tensor = given[name], opened[name]
        assert type(array) is np.ndarray
        assert (
            (array.dtype, array.shape)
            == (wanted.dtype, wanted.shape)
            == (np.dtype(tensor.dtype), tensor.shape)
        ), name
        np.testing.assert_array_equal(array, wanted, err_msg=name)
        np.testing.assert_array_equal(tensor.read(), wanted, err_msg=name)


def test_numbers_in_the_other_byte_order_come_in_this_machine_s(tmp_path):
    np.savez(
        tmp_path / "w.npz",
        **{name: array.astype(array.dtype.newbyteorder(">")) for name, array in ARRAYS.items()},
    )
    given = read_tensors(tmp_path / "w.npz")
    for name, wanted in ARRAYS.items():
        assert given[name].dtype == wanted.dtype and given[name].dtype.isnative
        np.testing.assert_array_equal(given[name], wanted, err_msg=name)


def test_bfloat16_keeps_its_values(tmp_path):
    import ml_dtypes

    wanted = np.array([[1.5, -2.0, 3.25]], ml_dtypes.bfloat16)
    (tmp_path / "w.safetensors").write_bytes(safetensors.numpy.save({"w": wanted}))
    assert open_tensors(tmp_path / "w.safetensors")["w"].dtype == "bfloat16"
    given = read_tensors(tmp_path / "w.safetensors")["w"]
    np.testing.assert_array_equal(given.astype(np.float32), [[1.5, -2.0, 3.25]])


def test_values_of_safetensors_are_read_only_when_asked(tmp_path):
    path = written(tmp_path, ".safetensors")
    tensors, content, bytes_of = open_tensors(path), path.read_bytes(), ARRAYS["float64"].tobytes()
    assert content.count(bytes_of) == 1
    with open(path, "r+b") as file:
        file.seek(content.index(bytes_of))
        file.write(np.float64([5, 7]).tobytes())
    np.testing.assert_array_equal(tensors["float64"].read(), [5, 7])


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_cut_and_empty_files_are_refused(tmp_path, suffix):
    path = written(tmp_path, suffix)
    whole = path.read_bytes()
    lengths = (0, 1, 7, len(whole) // 3, len(whole) - 1)
    for length in lengths:
        path.write_bytes(whole[:length])
        assert f"{path} is not a readable ." in refusal(path), length
    path.write_bytes(b"\x93 this is no such file\n\n" * 40)
    assert f"{path} is not a readable ." in refusal(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_another_format_than_their_suffix_says_are_refused(tmp_path, suffix):
    families = ((".safetensors",), (".npz",), (".pth", ".pt", ".bin"))
    others = [members[0] for members in families if suffix not in members]
    assert len(others) == 2
    for other in others:
        path = tmp_path / f"wrong{suffix}"
        shutil.copy(written(tmp_path, other), path)
        assert f"{path} is not a readable ." in refusal(path), other
    np.save(tmp_path / "array.npy", np.ones(3))
    shutil.move(tmp_path / "array.npy", tmp_path / f"array{suffix}")
    assert "is not a readable ." in refusal(tmp_path / f"array{suffix}")


def test_objects_in_an_npz_are_not_unpickled(tmp_path):
    class Attack:
        def __reduce__(self):
            return (pathlib.Path.mkdir, (tmp_path / "made",))

    np.savez(tmp_path / "w.npz", w=np.array([Attack()], object))
    assert "is not a readable .npz file (ValueError: Object arrays" in refusal(tmp_path / "w.npz")
    assert not (tmp_path / "made").exists()


def test_files_that_are_not_there_and_other_suffixes_are_refused(tmp_path):
    for suffix in FORMATS:
        path = tmp_path / f"absent{suffix}"
        assert refusal(path) == f"there is no file {path}; give the {suffix} file of the weights"
        (tmp_path / f"folder{suffix}").mkdir()
        assert "holds no weights; it needs model.safetensors or" in refusal(
            tmp_path / f"folder{suffix}"
        )
    for name in ("w.msgpack", "w", "w.npy", "w.onnx", "w.h5"):
        assert f"{name}' does not end in {', '.join(FORMATS)}; convert" in refusal(tmp_path / name)


def test_a_missing_package_is_told_with_its_pip_line(tmp_path, monkeypatch):
    path = written(tmp_path, ".safetensors")
    for name in [name for name in sys.modules if name.split(".")[0] == "safetensors"]:
        monkeypatch.setitem(sys.modules, name, None)
    line = "the package safetensors is not installed; pip install it: pip install safetensors"
    assert refusal(path).endswith(line)
