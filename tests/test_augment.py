"""Augmented batches against numpy loops and laws of chance, and the first stage of image networks
against float64.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from mistakes import refusal
from PIL import Image

from theseus_jax.data.augment import Augment, blended, mirrored, shifted
from theseus_jax.nets.blocks import pixels
from theseus_jax.nets.blocks.pixels import Pixels, channel_statistics
from theseus_jax.nets.stage import forward, init, network

CLASSES = 5


def batch(count=6, size=(5, 7, 2), seed=0, dtype=np.uint8):
    draw = np.random.default_rng(seed)
    images = draw.integers(1, 256, (count, *size)).astype(dtype)  # no 0, which is the padding
    return jnp.asarray(images), jnp.asarray(draw.integers(0, CLASSES, count), jnp.int32)


@functools.partial(jax.jit, static_argnums=(0,))
def run(augment, images, labels, key):
    return augment(images, labels, key)


def loop_shifted(images, offsets, pad):
    out = np.zeros_like(images)
    for image, (row, column), target in zip(images, offsets, out):
        for i in range(image.shape[0]):
            for j in range(image.shape[1]):
                a, b = i + row - pad, j + column - pad
                if 0 <= a < image.shape[0] and 0 <= b < image.shape[1]:
                    target[i, j] = image[a, b]
    return out


def seen_offsets(before, after, pad):
    """The one offset of each image at which the loop gives what came out."""
    found = []
    for image, result in zip(before, after):
        places = [
            (i, j)
            for i in range(2 * pad + 1)
            for j in range(2 * pad + 1)
            if (loop_shifted(image[None], [(i, j)], pad)[0] == result).all()
        ]
        assert len(places) == 1
        found += places
    return found


# What is done, given the draws


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_crop_and_flip_equal_loops_over_pixels(dtype):
    images, _ = batch(dtype=dtype)
    offsets = np.array([(0, 0), (3, 3), (6, 6), (0, 6), (5, 1), (2, 4)])
    cut = np.asarray(shifted(images, jnp.asarray(offsets), 3))
    np.testing.assert_array_equal(cut, loop_shifted(np.asarray(images), offsets, 3))
    np.testing.assert_array_equal(cut[1], images[1])
    assert cut.dtype == dtype
    chosen = np.array([True, False, True, True, False, False])
    turned = np.asarray(mirrored(images, jnp.asarray(chosen)))
    assert turned.dtype == dtype
    for image, result, turn in zip(np.asarray(images), turned, chosen):
        for column in range(7):
            np.testing.assert_array_equal(
                result[:, column], image[:, 6 - column if turn else column]
            )


def test_a_blend_is_the_weighted_sum_of_partners():
    images, labels = batch()
    partners = np.array([3, 0, 1, 2, 5, 4])
    mixed = np.asarray(blended(images, jnp.asarray(partners), jnp.float32(0.3)))
    whole = np.asarray(images, np.float64)
    np.testing.assert_allclose(mixed, 0.3 * whole + 0.7 * whole[partners], rtol=1e-6)
    assert mixed.dtype == np.float32


# What is drawn


def test_with_everything_off_the_same_objects_come_back():
    images, labels = batch()
    out = Augment()(images, labels, jax.random.key(0))
    assert out[0] is images and out[1] is labels and Augment() == Augment(0, False, 0.0, 0)


def test_every_shift_is_as_likely_as_any_other():
    images, labels = batch(500, (3, 3, 1), seed=1)
    pad = 1
    counts = np.zeros((3, 3), int)
    for seed in range(3):
        out, same = run(Augment(crop=pad), images, labels, jax.random.key(seed))
        assert out.dtype == jnp.uint8 and (same == labels).all()
        for place in seen_offsets(np.asarray(images), np.asarray(out), pad):
            counts[place] += 1
    assert (
        counts.sum() == 1500
        and (counts > 0).all()
        and scipy.stats.chisquare(counts.ravel()).pvalue > 0.01
    )
    rows, columns = counts.sum(1), counts.sum(0)
    independent = np.outer(rows, columns) / 1500
    assert scipy.stats.chi2.sf(((counts - independent) ** 2 / independent).sum(), 4) > 0.01


def test_half_of_the_images_are_mirrored_each_by_itself():
    images, labels = batch(2000, (2, 3, 1), seed=2)
    out, _ = run(Augment(flip=True), images, labels, jax.random.key(0))
    given, out = np.asarray(images), np.asarray(out)
    same, turned = (out == given).all((1, 2, 3)), (out == given[:, :, ::-1]).all((1, 2, 3))
    assert (same | turned).all()
    assert abs(turned.mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    # neighbours differ half of the time when draws are independent
    runs = (np.diff(turned.astype(int)) != 0).mean()
    assert abs(runs - 0.5) < 0.05


def test_crop_and_flip_draw_independently():
    images, labels = batch(2000, (3, 4, 1), seed=3)
    key = jax.random.key(4)
    cut, _ = run(Augment(crop=1), images, labels, key)
    both, _ = run(Augment(crop=1, flip=True), images, labels, key)
    flipped = np.asarray(both != cut).any((1, 2, 3))
    np.testing.assert_array_equal(np.asarray(both)[flipped], np.asarray(cut)[flipped, :, ::-1])
    offsets = np.array(seen_offsets(np.asarray(images[:600]), np.asarray(cut[:600]), 1))
    assert abs(np.corrcoef(offsets[:, 1], flipped[:600])[0, 1]) < 0.15


def test_labels_are_blended_as_images_are():
    labels = jnp.arange(CLASSES, dtype=jnp.int32)
    images = jnp.eye(CLASSES)[:, None, :, None] * 200  # image c is bright in column c alone
    for seed in range(8):
        mixed, targets = run(
            Augment(mixup=0.8, classes=CLASSES), images, labels, jax.random.key(seed)
        )
        assert (mixed.dtype, targets.dtype, targets.shape) == (
            jnp.float32,
            jnp.float32,
            (CLASSES, CLASSES),
        )
        np.testing.assert_allclose(np.asarray(targets).sum(1), 1.0, atol=1e-6)
        np.testing.assert_allclose(
            np.asarray(targets) * 200, np.asarray(mixed)[:, 0, :, 0], atol=1e-4
        )
        # a permutation: everyone is a partner once
        np.testing.assert_allclose(np.asarray(targets).sum(0), 1.0, atol=1e-6)
        own = np.diag(targets)
        assert len(np.unique(own[own < 1 - 1e-6].round(5))) <= 1  # one share for the batch


@pytest.mark.parametrize("a", [0.3, 2.0])
def test_the_share_follows_beta(a):
    images, labels = jnp.zeros((2, 1, 1, 1)), jnp.asarray([0, 1], jnp.int32)
    keys = jax.random.split(jax.random.key(0), 1200)
    _, targets = jax.jit(jax.vmap(lambda key: Augment(mixup=a, classes=2)(images, labels, key)))(
        keys
    )
    swapped = np.asarray(targets)[:, 0, 0] < 1  # partner is the other one in half of the batches
    assert 0.42 < swapped.mean() < 0.58
    shares = np.asarray(targets)[swapped, 0, 0]
    assert scipy.stats.kstest(shares, scipy.stats.beta(a, a).cdf).pvalue > 0.01


def test_a_key_decides_everything_under_jit_and_vmap():
    augment = Augment(crop=2, flip=True, mixup=0.4, classes=CLASSES)
    images, labels = batch(8)
    keys = jax.random.split(jax.random.key(1), 3)
    first, again, other = (run(augment, images, labels, key) for key in (keys[0], keys[0], keys[1]))
    for a, b, c in zip(first, again, other):
        np.testing.assert_array_equal(a, b)
        assert (np.asarray(a) != np.asarray(c)).any()
    many = jax.jit(jax.vmap(lambda key: augment(images, labels, key)))(keys)
    for i, key in enumerate(keys):
        for a, b in zip(many, run(augment, images, labels, key)):
            np.testing.assert_allclose(a[i], b, rtol=1e-6)


def test_an_augment_is_a_static_argument_that_compiles_once_and_tells_what_it_does():
    traced = []

    @functools.partial(jax.jit, static_argnums=(0,))
    def step(augment, images, labels, key):
        traced.append(augment)
        return augment(images, labels, key)

    for seed in range(3):
        images, labels = batch(4, seed=seed)
        step(Augment(2, True), images, labels, jax.random.key(seed))
    assert len(traced) == 1
    assert [
        str(a) for a in (Augment(), Augment(4), Augment(4, True, 0.2, 10), Augment(0, True))
    ] == [
        "none",
        "crop after 4 pixels of padding",
        "crop after 4 pixels of padding, flip, mixup 0.2",
        "flip",
    ]


def test_settings_and_batches_that_cannot_be_are_refused():
    for crop in (-1, 1.5, True):
        assert "crop is" in refusal(Augment, crop=crop)
    for mixup in (-0.1, float("nan"), float("inf")):
        assert "mixup is" in refusal(Augment, mixup=mixup, classes=CLASSES)
    assert "give the number of classes" in refusal(Augment, mixup=0.2)
    images, labels = batch()
    for wrong in ((images[0], labels), (images, labels[:3]), (images, labels[:, None])):
        assert "expected (B, height, width, C) and (B,)" in refusal(
            Augment(2), *wrong, jax.random.key(0)
        )


# The stage that reads levels

MEAN, DEVIATION = (120.0, 30.5), (60.0, 7.25)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_are_standardised_by_channel(dtype):
    images, _ = batch(dtype=dtype)
    out = Pixels(MEAN, DEVIATION).apply({}, images)
    np.testing.assert_allclose(
        out, (np.asarray(images, np.float64) - MEAN) / DEVIATION, rtol=1e-6, atol=1e-6
    )
    assert out.dtype == jnp.float32
    constant = Pixels(MEAN, (60.0, 0.0)).apply({}, images)
    np.testing.assert_array_equal(constant[..., 1], 0)
    np.testing.assert_array_equal(constant[..., 0], out[..., 0])


def loop_resized(image, size):
    """Bilinear with pixel centres at half integers; beyond the rim the rim counts."""
    height, width, _ = image.shape
    out = np.zeros((size, size, image.shape[2]))
    for i in range(size):
        for j in range(size):
            at = [
                np.clip((k + 0.5) * length / size - 0.5, 0, length - 1)
                for k, length in ((i, height), (j, width))
            ]
            low = [int(np.floor(a)) for a in at]
            high = [min(k + 1, length - 1) for k, length in zip(low, (height, width))]
            u, v = (a - k for a, k in zip(at, low))
            out[i, j] = (
                (1 - u) * (1 - v) * image[low[0], low[1]]
                + u * (1 - v) * image[high[0], low[1]]
                + (1 - u) * v * image[low[0], high[1]]
                + u * v * image[high[0], high[1]]
            )
    return out


@pytest.mark.parametrize("size", [3, 5, 11])
def test_pixels_are_resized_bilinearly(size):
    images, _ = batch(3)
    out = np.asarray(Pixels(MEAN, DEVIATION, size).apply({}, images))
    assert out.shape == (3, size, size, 2)
    for image, result in zip((np.asarray(images, np.float64) - MEAN) / DEVIATION, out):
        np.testing.assert_allclose(result, loop_resized(image, size), atol=2e-5)


def test_growing_images_are_pillow_s():
    images, _ = batch(1, (4, 4, 1), dtype=np.float32)
    wanted = Image.fromarray(np.asarray(images)[0, ..., 0]).resize(
        (10, 10), Image.Resampling.BILINEAR
    )
    out = Pixels((0.0,), (1.0,), 10).apply({}, images)[0, ..., 0]
    np.testing.assert_allclose(out, np.asarray(wanted), atol=1e-3)


def test_pixels_are_a_stage_without_parameters_that_gradients_pass_by():
    net = network(
        [("pixels", Pixels(MEAN, DEVIATION, 3)), ("flat", Flat()), ("head", nn.Dense(CLASSES))]
    )
    images, labels = batch()
    variables = init(net, jax.random.key(0), images)
    assert variables["pixels"] == {}

    def loss(params):
        logits = forward(net, {**variables, "head": {"params": params}}, images)[0]
        return -jax.nn.log_softmax(logits)[jnp.arange(6), labels].mean()

    gradient = jax.grad(loss)(variables["head"]["params"])
    flat = np.asarray(Pixels(MEAN, DEVIATION, 3).apply({}, images)).reshape(6, -1)
    error = jax.nn.softmax(flat @ variables["head"]["params"]["kernel"]) - jax.nn.one_hot(
        labels, CLASSES
    )
    np.testing.assert_allclose(gradient["kernel"], flat.T @ np.asarray(error) / 6, atol=1e-5)


class Flat(nn.Module):
    """(B, ...) -> (B, D)."""

    @nn.compact
    def __call__(self, x):
        return x.reshape(len(x), -1)


def test_images_and_settings_that_do_not_fit_are_refused():
    images, _ = batch()
    line = refusal(Pixels((1.0,), (2.0,)).apply, {}, images)
    assert "(6, 5, 7, 2)" in line and "(B, height, width, 1)" in line
    assert "images are (5, 7, 2)" in refusal(Pixels(MEAN, DEVIATION).apply, {}, images[0])
    for mean, deviation in (
        ((1.0,), DEVIATION),
        (MEAN, (1.0, -1.0)),
        ((1.0, float("nan")), DEVIATION),
    ):
        assert "mean is" in refusal(Pixels(mean, deviation).apply, {}, images)
    assert "size is -1" in refusal(Pixels(MEAN, DEVIATION, -1).apply, {}, images)


@pytest.mark.parametrize("chunk", [1, 200, 1 << 24])
def test_statistics_are_those_of_all_pixels(monkeypatch, chunk):
    monkeypatch.setattr(pixels, "CHUNK", chunk)
    x = np.random.default_rng(0).integers(0, 256, (11, 5, 4, 3), np.uint8)
    x[..., 1] //= 9
    x[..., 2] = 255
    mean, deviation = channel_statistics(x)
    exact = x.astype(np.float64).reshape(-1, 3)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-15)
    np.testing.assert_allclose(deviation, exact.std(0), rtol=1e-13)
    assert deviation[2] == 0.0 and mean[2] == 255.0
    standard = np.asarray(Pixels(mean, deviation).apply({}, x), np.float64).reshape(-1, 3)
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(standard.std(0), (1, 1, 0), atol=1e-6)


def test_statistics_of_anything_else_are_refused():
    for wrong in (
        np.zeros((2, 3, 3, 1), np.float32),
        np.zeros((2, 9), np.uint8),
        np.zeros((0, 3, 3, 1), np.uint8),
    ):
        assert f"statistics were asked for of {wrong.shape}" in refusal(channel_statistics, wrong)
