"""Paths, counts, exact comparison, checksums, the seed axis and stage selection."""

import collections
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from theseus_jax import trees
from theseus_jax.errors import UserError

Pair = collections.namedtuple("Pair", "left right")


def example():
    kernel = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
    return {
        "s0": {"kernel": kernel, "bias": jnp.zeros(3, jnp.bfloat16)},
        "opt": (Pair(np.int32(4), [jnp.ones((), bool)]), None, optax.EmptyState()),
    }


def test_paths_name_dict_keys_positions_and_fields_in_flattening_order():
    found = trees.leaves_by_path(example())
    assert list(found) == ["opt/0/left", "opt/0/right/0", "s0/bias", "s0/kernel"]
    assert all(a is b for a, b in zip(found.values(), jax.tree.leaves(found)))
    assert trees.leaves_by_path(jnp.ones(2))[""].shape == (2,) and trees.leaves_by_path({}) == {}
    adam = optax.adam(0.1).init({"w": jnp.ones(2)})
    assert list(trees.leaves_by_path(adam)) == ["0/count", "0/mu/w", "0/nu/w"]
    with pytest.raises(UserError, match="'a/b'.*rename"):
        trees.leaves_by_path({"a/b": 1})


def test_nested_inverts_leaves_by_path_for_plain_dicts():
    tree = {"a": {"b": {"c": 1, "d": 2}}, "e": 3}
    assert trees.nested(trees.leaves_by_path(tree)) == tree


def test_parameter_count_is_the_closed_form():
    assert trees.parameter_count(example()) == 6 + 3 + 1 + 1
    abstract = jax.ShapeDtypeStruct((7, 0), jnp.float32)
    assert trees.parameter_count({"w": abstract, "k": jax.random.key(0)}) == 1
    assert trees.parameter_count({}) == 0


@pytest.mark.parametrize(
    "other, equal",
    [
        (np.array([1.0, np.nan, 0.0], np.float32), True),
        (np.array([1.0, np.nan, -0.0], np.float32), False),
        (np.array([1.0, -np.nan, 0.0], np.float32), False),
        (np.array([1.0, np.nan, 0.0], np.float64), False),
        (np.array([[1.0, np.nan, 0.0]], np.float32), False),
        (np.array([1.0, np.nan, np.nextafter(np.float32(0), np.float32(1))], np.float32), False),
    ],
)
def test_bit_equal_and_checksum_see_every_bit(other, equal):
    tree = {"w": jnp.array([1.0, jnp.nan, 0.0], jnp.float32)}
    assert trees.bit_equal(tree, {"w": other}) is equal
    assert (trees.checksum(tree) == trees.checksum({"w": other})) is equal


def test_bit_equal_compares_containers_and_keys():
    assert trees.bit_equal(example(), example())
    assert not trees.bit_equal((1, 2), [1, 2])
    assert not trees.bit_equal(Pair(1, 2), (1, 2))
    assert trees.bit_equal(jax.random.key(3), jax.random.key(3))
    assert not trees.bit_equal(jax.random.key(3), jax.random.key(4))
    assert not trees.bit_equal(jax.random.key(3), jax.random.key_data(jax.random.key(3)))
    assert trees.bit_equal(jnp.zeros((0, 3)), jnp.zeros((0, 3)))
    assert not trees.bit_equal(np.zeros(0), np.zeros((0, 3)))


def test_checksum_is_sha256_of_description_and_bytes_whatever_the_memory_layout():
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    expected = hashlib.sha256(b"int16 (2, 3)" + array.tobytes()).hexdigest()
    assert trees.checksum({"a": array}) == {"a": expected}
    assert trees.checksum({"a": np.asfortranarray(array)}) == {"a": expected}


def test_difference_reads_both_ways():
    given = example() | {"new": jnp.zeros((2,), jnp.int8)}
    given["s0"] = {"kernel": jnp.zeros((3, 2), jnp.float16)}
    assert trees.difference(example(), given) == [
        "missing s0/bias: bfloat16 (3,)",
        "extra new: int8 (2,)",
        "shape s0/kernel: expected (2, 3), given (3, 2)",
        "dtype s0/kernel: expected float32, given float16",
    ]
    abstract = jax.eval_shape(lambda: {"k": jax.random.key(0), "x": jnp.ones(3)})
    assert trees.difference(abstract, {"k": jax.random.key(5), "x": np.ones(3, np.float32)}) == []
    assert trees.difference(
        abstract, {"k": np.zeros((), np.uint32), "x": np.ones(3, np.float32)}
    ) == ["dtype k: expected key<fry>, given uint32"]


def test_stack_and_unstack_are_inverse_and_keep_dtypes_and_keys():
    seeds = [
        {"w": jnp.full((2, 3), s, jnp.bfloat16), "key": jax.random.key(s), "n": jnp.uint16(s)}
        for s in range(3)
    ]
    stacked = trees.stack(seeds)
    assert stacked["w"].shape == (3, 2, 3) and stacked["key"].shape == (3,)
    assert stacked["n"].dtype == jnp.uint16
    assert all(trees.bit_equal(trees.unstack(stacked, s), seeds[s]) for s in range(3))


def test_stack_and_unstack_refuse_what_jax_would_do_silently():
    w = jnp.ones(2)
    with pytest.raises(UserError, match="dtype w: expected float32, given int32"):
        trees.stack([{"w": w}, {"w": w.astype(jnp.int32)}])
    with pytest.raises(UserError, match="tree 2 with tree 0.*missing w"):
        trees.stack([{"w": w}, {"w": w}, {}])
    with pytest.raises(UserError, match="containers differ"):
        trees.stack([(w, w), [w, w]])
    with pytest.raises(UserError, match="no tree"):
        trees.stack([])
    for i in (-1, 2):
        with pytest.raises(UserError, match=f"index {i} is out of range: the tree holds 2"):
            trees.unstack({"w": w}, i)
    for bad in ({"w": w, "v": jnp.ones(3)}, {"w": jnp.float32(1)}, {}):
        with pytest.raises(UserError, match="no common leading seed axis"):
            trees.unstack(bad, 0)


def test_select_splits_by_name_in_stage_order_and_refuses_unknown_names():
    stages = {"stem": 1, "block": 2, "head": 3}
    chosen, rest = trees.select(stages, ["head", "stem"])
    assert list(chosen.items()) == [("stem", 1), ("head", 3)] and rest == {"block": 2}
    assert trees.select(stages, ()) == ({}, stages)
    with pytest.raises(UserError, match="no stage named neck: the stages are stem, block, head"):
        trees.select(stages, ["head", "neck"])
