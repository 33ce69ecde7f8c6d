"""Named tensors out of every file format: exact values, and one line for everything that can be wrong with a file."""
import pathlib
import shutil
import sys

import h5py
import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import helper, numpy_helper

from theseus_jax.errors import UserError
from theseus_jax.nets.weights.containers import open_tensors, read_tensors

GOLDEN = pathlib.Path(__file__).parent / "golden"
ARRAYS = dict(np.load(GOLDEN / "tensors.npz"))
FORMATS = (".safetensors", ".npz", ".onnx", ".h5", ".hdf5", ".pth", ".pt", ".bin")


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
        source = {".npz": "tensors.npz", ".onnx": "tensors.onnx", ".h5": "tensors.h5", ".hdf5": "tensors.h5",
                  ".pth": "tensors_zip.pth", ".pt": "tensors_stream.pth", ".bin": "tensors_zip.pth"}[suffix]
        shutil.copy(GOLDEN / source, path)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_arrays(tmp_path, suffix):
    path, prefix = written(tmp_path, suffix), "group/inner/" if suffix in (".h5", ".hdf5") else ""
    given, opened = read_tensors(path), open_tensors(path)
    assert len(ARRAYS) == 12 and {name for name in given if not name.startswith("big/")} == {prefix + n for n in ARRAYS}
    for name, wanted in ARRAYS.items():
        array, tensor = given[prefix + name], opened[prefix + name]
        assert type(array) is np.ndarray
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape) == (np.dtype(tensor.dtype), tensor.shape), name
        np.testing.assert_array_equal(array, wanted, err_msg=name)
        np.testing.assert_array_equal(tensor.read(), wanted, err_msg=name)


def test_numbers_in_the_other_byte_order_come_in_this_machine_s(tmp_path):
    given = read_tensors(GOLDEN / "tensors.h5")
    with h5py.File(GOLDEN / "tensors.h5") as file:
        assert file["big/float64"].dtype.byteorder == ">"
    np.savez(tmp_path / "w.npz", **{name: array.astype(array.dtype.newbyteorder(">")) for name, array in ARRAYS.items()})
    for tensors, prefix in ((given, "big/"), (read_tensors(tmp_path / "w.npz"), "")):
        for name, wanted in ARRAYS.items():
            assert tensors[prefix + name].dtype == wanted.dtype and tensors[prefix + name].dtype.isnative
            np.testing.assert_array_equal(tensors[prefix + name], wanted, err_msg=name)


def test_bfloat16_keeps_its_values(tmp_path):
    import ml_dtypes
    wanted = np.array([[1.5, -2.0, 3.25]], ml_dtypes.bfloat16)
    (tmp_path / "w.safetensors").write_bytes(safetensors.numpy.save({"w": wanted}))
    onnx.save(model([numpy_helper.from_array(wanted, "w")]), tmp_path / "w.onnx")
    for suffix in (".safetensors", ".onnx"):
        path = tmp_path / f"w{suffix}"
        assert open_tensors(path)["w"].dtype == "bfloat16"
        np.testing.assert_array_equal(read_tensors(path)["w"].astype(np.float32), [[1.5, -2.0, 3.25]])


def test_values_of_safetensors_and_hdf5_are_read_only_when_asked(tmp_path):
    for suffix in (".safetensors", ".h5"):
        path = written(tmp_path, suffix)
        tensors, name = open_tensors(path), "float64" if suffix == ".safetensors" else "group/inner/float64"
        content = path.read_bytes()
        bytes_of = ARRAYS["float64"].tobytes()
        assert content.count(bytes_of) == 1
        with open(path, "r+b") as file:
            file.seek(content.index(bytes_of))
            file.write(np.float64([5, 7]).tobytes())
        np.testing.assert_array_equal(tensors[name].read(), [5, 7], err_msg=suffix)


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_cut_and_empty_files_are_refused(tmp_path, suffix):
    path = written(tmp_path, suffix)
    whole = path.read_bytes()
    lengths = (0, 1, 7, len(whole) // 3, len(whole) - 1)
    for length in lengths if suffix != ".onnx" else lengths[1:]:
        path.write_bytes(whole[:length])
        assert f"{path} is not a readable ." in refusal(path), length
    path.write_bytes(b"\x93 this is no such file\n\n" * 40)
    assert f"{path} is not a readable ." in refusal(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_another_format_than_their_suffix_says_are_refused(tmp_path, suffix):
    families = ((".safetensors",), (".npz",), (".onnx",), (".h5", ".hdf5"), (".pth", ".pt", ".bin"))
    others = [members[0] for members in families if suffix not in members]
    assert len(others) == 4
    for other in others:
        path = tmp_path / f"wrong{suffix}"
        shutil.copy(written(tmp_path, other), path)
        assert f"{path} is not a readable ." in refusal(path), other
    np.save(tmp_path / "array.npy", np.ones(3))
    shutil.move(tmp_path / "array.npy", tmp_path / f"array{suffix}")
    assert "is not a readable ." in refusal(tmp_path / f"array{suffix}")


def test_a_damaged_value_is_told_when_it_is_read(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("w", data=np.arange(4000.0), compression="gzip", fletcher32=True)
        offset = file["w"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 50] ^= 255
    path.write_bytes(content)
    assert open_tensors(path)["w"].shape == (4000,)
    assert f"{path} is not a readable .h5 file (OSError: " in refusal(path)


def model(initialisers):
    node = helper.make_node("Identity", ["w"], ["y"])
    return helper.make_model(helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", 1, None)], initialisers))


def test_onnx_values_that_do_not_fill_their_shape_are_refused(tmp_path):
    tensor = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    tensor.dims[0] = 5
    onnx.save(model([tensor]), tmp_path / "w.onnx")
    assert "is not a readable .onnx file (ValueError: " in refusal(tmp_path / "w.onnx")


def test_tensors_kept_outside_the_file_are_refused(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(4, np.float32).tobytes())
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, "secret.bin")
    tensor.ClearField("raw_data")
    (tmp_path / "w.onnx").write_bytes(model([tensor]).SerializeToString())
    assert refusal(tmp_path / "w.onnx").endswith("w.onnx keeps w in another file; save it whole in one .onnx file")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("a/w", (4,), "<f4", external=[(str(secret), 0, 16)])
    assert refusal(tmp_path / "w.h5").endswith("w.h5 keeps a/w in another file; save it whole in one .h5 file")
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["w"] = np.ones(4, np.float32)
    layout = h5py.VirtualLayout((4,), "<f4")
    layout[:] = h5py.VirtualSource(tmp_path / "source.h5", "w", (4,))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("w", layout)
    assert "v.h5 keeps w in another file" in refusal(tmp_path / "v.h5")


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
        assert "there is no file" in refusal(tmp_path / f"folder{suffix}")
    for name in ("w.msgpack", "w", "w.npy"):
        assert f"{name}' does not end in {', '.join(FORMATS)}; convert" in refusal(tmp_path / name)
    (tmp_path / "empty.onnx").touch()
    assert "empty.onnx holds no network" in refusal(tmp_path / "empty.onnx")


@pytest.mark.parametrize("suffix, package", [(".safetensors", "safetensors"), (".onnx", "onnx"), (".h5", "h5py")])
def test_a_missing_package_is_told_with_its_pip_line(tmp_path, monkeypatch, suffix, package):
    path = written(tmp_path, suffix)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    assert refusal(path).endswith(f"the package {package} is not installed; pip install it: pip install {package}")
