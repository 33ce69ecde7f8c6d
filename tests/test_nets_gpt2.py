"""GPT-2 against transformers' logits, and the strictness of its weight files."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from theseus_jax.errors import UserError
from theseus_jax.nets.models.gpt2 import gpt2
from theseus_jax.nets.stage import forward, init
from theseus_jax.nets.weights.gpt2 import gpt2_sizes, load_gpt2, save_gpt2, tensor_names
from theseus_jax.trees import bit_equal, leaves_by_path, parameter_count

GOLDEN = pathlib.Path(__file__).parent / "golden"
SIZES = {
    "a": {"vocabulary": 61, "width": 32, "depth": 2, "heads": 4, "positions": 16},
    "b": {"vocabulary": 40, "width": 24, "depth": 3, "heads": 3, "positions": 12},
    "c": {"vocabulary": 29, "width": 64, "depth": 1, "heads": 1, "positions": 9},
}
C_FC = "transformer.h.1.mlp.c_fc.weight"


def golden(name):
    return GOLDEN / f"gpt2_{name}.safetensors"


def tensors():
    return safetensors.numpy.load_file(golden("a"))


def written(folder, arrays, suffix):
    path = folder / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    return path


def refusal(folder, arrays, suffix=".safetensors", **changes):
    with pytest.raises(UserError) as caught:
        load_gpt2(written(folder, arrays, suffix), **SIZES["a"] | changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SIZES)
def test_logits_are_those_of_transformers(name):
    with np.load(GOLDEN / "gpt2_logits.npz") as archive:
        ids, logits = archive[f"{name}_ids"], archive[f"{name}_logits"]
    net, variables = gpt2(**SIZES[name]), load_gpt2(golden(name), **SIZES[name])
    ours = jax.jit(lambda v, x: forward(net, v, x)[0])(variables, ids)
    assert ours.dtype == jnp.float32 and np.std(logits) > 0.1
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-4 * min(1.0, np.std(logits)))


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_read_from_the_file(name):
    assert gpt2_sizes(golden(name)) == {
        key: SIZES[name][key] for key in SIZES[name] if key != "heads"
    }


def test_loaded_variables_have_the_structure_of_fresh_ones():
    net = gpt2(**SIZES["a"])
    fresh = jax.eval_shape(
        lambda key: init(net, key, jnp.zeros((1, 3), jnp.int32)), jax.random.key(0)
    )
    loaded = load_gpt2(golden("a"), **SIZES["a"])
    assert jax.tree.structure(loaded) == jax.tree.structure(fresh)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    assert set(tensor_names(2).values()) == set(leaves_by_path(fresh))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_known_extras_and_both_spellings_load_the_same_numbers(tmp_path, suffix):
    wanted, arrays = load_gpt2(golden("a"), **SIZES["a"]), tensors()
    bare = {name.removeprefix("transformer."): array for name, array in arrays.items()}
    mask = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 16, 16), np.uint8)) for i in range(2)}
    fill = {f"transformer.h.{i}.attn.masked_bias": np.float32([-1e4]) for i in range(2)}
    tied = {"lm_head.weight": arrays["transformer.wte.weight"]}
    for given in (arrays, bare, bare | mask | tied, arrays | fill | tied):
        assert bit_equal(load_gpt2(written(tmp_path, given, suffix), **SIZES["a"]), wanted)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_each_fault_of_one_tensor_is_named(tmp_path, suffix):
    short = C_FC.removeprefix("transformer.")
    kernel, rest = (
        tensors()[C_FC],
        {name: array for name, array in tensors().items() if name != C_FC},
    )
    assert f": missing {short};" in refusal(tmp_path, rest, suffix)
    renamed = refusal(tmp_path, rest | {"transformer.h.1.mlp.cfc.weight": kernel}, suffix)
    assert f"missing {short}; extra h.1.mlp.cfc.weight (did you mean {short}?)" in renamed
    transposed = refusal(tmp_path, rest | {C_FC: np.ascontiguousarray(kernel.T)}, suffix)
    assert f"{short} is transposed: given (128, 32), expected (32, 128);" in transposed
    cut = refusal(tmp_path, rest | {C_FC: kernel[:, :-1].copy()}, suffix)
    assert f"{short} has another shape: given (32, 127), expected (32, 128);" in cut
    wide = refusal(tmp_path, rest | {C_FC: kernel.astype(np.float64)}, suffix)
    assert f"{short} has another dtype: given float64, expected float32;" in wide
    added = refusal(tmp_path, tensors() | {"score.weight": kernel}, suffix)
    assert ": extra score.weight; compare" in added and "missing" not in added


def test_faults_of_the_whole_file_are_named(tmp_path):
    arrays = tensors()
    untied = refusal(tmp_path, arrays | {"lm_head.weight": arrays["transformer.wte.weight"] + 1e-6})
    assert "lm_head.weight differs from wte.weight" in untied
    transposed = refusal(
        tmp_path, arrays | {"lm_head.weight": arrays["transformer.wte.weight"].T.copy()}
    )
    assert "lm_head.weight is transposed" in transposed
    doubled = refusal(tmp_path, arrays | {"ln_f.bias": np.ones(32, np.float32)})
    assert "both with and without 'transformer.'" in doubled
    deeper = refusal(tmp_path, arrays, depth=3)
    assert "missing h.2.ln_1.weight; " in deeper and "; and 8 more; compare" in deeper
    assert "extra h.1.attn.c_attn.bias; " in refusal(tmp_path, arrays, depth=1)
    longer = refusal(tmp_path, arrays, positions=64)
    assert "wpe.weight has another shape: given (16, 32), expected (64, 32)" in longer
    assert "32 is not a multiple of 5 heads" in refusal(tmp_path, arrays, heads=5)


def test_files_that_cannot_be_read_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="there is no file .*absent.npz"):
        gpt2_sizes(tmp_path / "absent.npz")
    with pytest.raises(UserError, match="there is no file .*model.bin"):
        load_gpt2(tmp_path / "model.bin", **SIZES["a"])
    for suffix in (".npz", ".safetensors"):
        (tmp_path / f"broken{suffix}").write_bytes(golden("a").read_bytes()[:5000])
        (tmp_path / f"empty{suffix}").touch()
        for name in ("broken", "empty"):
            with pytest.raises(UserError, match=f"{name}{suffix} is not a readable {suffix} file"):
                gpt2_sizes(tmp_path / f"{name}{suffix}")
    with pytest.raises(UserError, match="holds no GPT-2: 0 blocks"):
        gpt2_sizes(written(tmp_path, {"w": np.ones(2, np.float32)}, ".npz"))
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(UserError, match="pip install it"):
        gpt2_sizes(golden("a"))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_saved_network_is_loaded_bit_for_bit(tmp_path, suffix):
    sizes = {"vocabulary": 7, "width": 6, "depth": 2, "heads": 2, "positions": 5}
    tokens = jnp.zeros((1, 4), jnp.int32)
    shapes = jax.eval_shape(lambda key: init(gpt2(**sizes), key, tokens), jax.random.key(0))
    rng = np.random.default_rng(3)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    path = tmp_path / f"mine{suffix}"
    save_gpt2(path, variables)
    assert bit_equal(load_gpt2(path, **sizes), variables)
    assert gpt2_sizes(path) == {key: sizes[key] for key in sizes if key != "heads"}


def test_a_file_of_transformers_is_written_back_tensor_by_tensor(tmp_path):
    save_gpt2(tmp_path / "again.safetensors", load_gpt2(golden("a"), **SIZES["a"]))
    assert bit_equal(safetensors.numpy.load_file(tmp_path / "again.safetensors"), tensors())
    with safetensors.safe_open(tmp_path / "again.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_variables_of_another_network_are_not_saved(tmp_path):
    variables = load_gpt2(golden("c"), **SIZES["c"])
    with pytest.raises(UserError, match="positions have shapes .* not the"):
        save_gpt2(
            tmp_path / "x.npz",
            {name: value for name, value in variables.items() if name != "embed"},
        )
    with pytest.raises(UserError, match="extra pool/params/w"):
        save_gpt2(tmp_path / "x.npz", variables | {"pool": {"params": {"w": np.ones(2)}}})
    with pytest.raises(UserError, match="missing norm/params/scale"):
        save_gpt2(
            tmp_path / "x.npz", variables | {"norm": {"params": {"bias": np.zeros(64, np.float32)}}}
        )
    with pytest.raises(UserError, match="no folder .*absent"):
        save_gpt2(tmp_path / "absent" / "x.npz", variables)
    assert not list(tmp_path.iterdir())


def test_gpt2_small_has_its_published_number_of_parameters():
    net = gpt2(vocabulary=50257, width=768, depth=12, heads=12, positions=1024)
    tokens = jax.ShapeDtypeStruct((1, 1024), jnp.int32)
    variables = jax.eval_shape(lambda key: init(net, key, tokens), jax.random.key(0))
    assert parameter_count(variables) == 124_439_808


def test_initial_weights_follow_gpt2():
    net = gpt2(vocabulary=300, width=64, depth=3, heads=4, positions=200)
    fresh = jax.jit(lambda key: init(net, key, jnp.zeros((1, 4), jnp.int32)))
    leaves = leaves_by_path(fresh(jax.random.key(1)))
    for path, leaf in leaves.items():
        if path.endswith("c_proj/kernel"):
            wanted = 0.02 / 6**0.5  # two residual additions in each of 3 blocks
        elif path.endswith(("kernel", "tokens", "positions")):
            wanted = 0.02
        else:
            assert np.all(np.asarray(leaf) == (1.0 if path.endswith("scale") else 0.0)), path
            continue
        # five standard errors of a standard deviation and of a mean
        assert abs(np.std(leaf) / wanted - 1) < 5 / (2 * leaf.size) ** 0.5, path
        assert abs(np.mean(leaf)) < 5 * wanted / leaf.size**0.5, path
