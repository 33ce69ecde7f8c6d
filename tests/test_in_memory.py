"""tj.convert: networks and arrays of one's own, without a config."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import theseus_jax as tj
from theseus_jax.errors import UserError
from theseus_jax.experiment import in_memory
from theseus_jax.similarity import cka, metric
from theseus_jax.trees import bit_equal

N, P, O = 2048, 8, 4
KEY = jax.random.key(0)


class Layer(nn.Module):
    width: int
    kind: str = "relu"

    @nn.compact
    def __call__(self, x):
        return getattr(nn, self.kind)(nn.Dense(self.width)(x))


GUIDE = tj.network([("a", Layer(24)), ("b", Layer(24)), ("c", Layer(20)), ("out", nn.Dense(O))])
TARGET = tj.network(
    [("first", Layer(32, "tanh")), ("second", Layer(28, "tanh")), ("logits", nn.Dense(O))]
)
X = np.random.default_rng(0).normal(size=(N, P)).astype(np.float32)
GUIDE_VARIABLES = jax.tree.map(lambda leaf: 1.5 * leaf, tj.init(GUIDE, jax.random.key(7), X[:1]))


def classes(net, variables, x):
    return np.asarray(tj.forward(net, variables, x)[0]).argmax(-1)


@pytest.fixture(scope="module")
def converted():
    return tj.convert(GUIDE, GUIDE_VARIABLES, TARGET, X, key=KEY, mapping="a=first, c=second")


def test_the_target_answers_as_the_guide_does_on_inputs_it_never_saw(converted):
    held = np.random.default_rng(1).normal(size=(N, P)).astype(np.float32)
    wanted = classes(GUIDE, GUIDE_VARIABLES, held)
    assert np.bincount(wanted, minlength=O).max() < 0.6 * N, "a constant answer must not pass"
    before = tj.init(TARGET, KEY, X[:1])
    agreement = [
        np.mean(classes(TARGET, variables, held) == wanted) for variables in (before, converted[0])
    ]
    assert agreement[0] < 0.5 and agreement[1] > 0.7
    inside = [
        cka(
            tj.forward(TARGET, v, held, stop="second")[0],
            tj.forward(GUIDE, GUIDE_VARIABLES, held, stop="c")[0],
        )
        for v in (before, converted[0])
    ]
    assert inside[1] > inside[0] + 0.1


def test_the_rows_tell_every_phase_and_the_key_decides_everything(converted):
    variables, history = converted
    trained = [row for row in history if row["kind"] == "train"]
    assert [phase for phase in dict.fromkeys(row["phase"] for row in trained)] == [
        "align",
        "finetune",
    ]
    assert trained[-1]["loss"] < trained[-len(trained) // 2]["loss"]
    again = tj.convert(GUIDE, GUIDE_VARIABLES, TARGET, X, key=KEY, mapping="a=first, c=second")[0]
    other = tj.convert(
        GUIDE, GUIDE_VARIABLES, TARGET, X, key=jax.random.key(1), mapping="a=first, c=second"
    )[0]
    assert bit_equal(variables, again) and not bit_equal(variables, other)
    assert list(variables) == list(TARGET.names)


def test_labels_of_one_s_own_are_learnt_where_settings_read_them():
    labels = (X[:, 0] > 0).astype(np.int64) + 2 * (X[:, 1] > 0)
    settings = tj.methods.convert.Settings("progressive", metric("cka_debiased"), 240, align=0.2)
    variables, _ = tj.convert(GUIDE, GUIDE_VARIABLES, TARGET, X, labels, key=KEY, settings=settings)
    assert np.mean(classes(TARGET, variables, X) == labels) > 0.9
    assert np.mean(classes(GUIDE, GUIDE_VARIABLES, X) == labels) < 0.5


SETTINGS = tj.methods.convert.Settings("joint", metric("cka_debiased"), 20)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"target": tj.network([("a", Layer(8)), ("b", nn.Dense(O + 1))])},
            r"guide's logits are \(1, 4\) and the target's \(1, 5\); give",
        ),
        (
            {"settings": SETTINGS},
            "labels are None and settings read them .* give labels, or finish_kl=1.0",
        ),
        (
            {"labels": np.zeros(N)},
            r"float64, for 2048 inputs and 4 classes; give \(N,\) integers in 0 .. 3",
        ),
        ({"labels": np.zeros(N - 1, int)}, r"labels of shape \(2047,\)"),
        ({"labels": np.full(N, O)}, "integers in 0 .. 3"),
        ({"labels": np.full(N, -1)}, "integers in 0 .. 3"),
        ({"batch": N + 1}, "2048 inputs are fewer than a batch of 2049; lower batch"),
        (
            {"mapping": "a=first, z=second"},
            "names 'z', which is no stage of the guide; its stages are a, b, c, out",
        ),
        (
            {"mapping": "a=first, c=z"},
            "no stage of the target; its stages are first, second, logits",
        ),
        ({"mapping": "c=second, a=first"}, "must go forward"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    given = {
        "guide": GUIDE,
        "guide_variables": GUIDE_VARIABLES,
        "target": TARGET,
        "inputs": X,
        "key": KEY,
    } | changes
    with pytest.raises(UserError, match=message) as caught:
        tj.convert(**given)
    assert "\n" not in str(caught.value)


class Wrapped(nn.Module):
    bias: bool = True

    @nn.compact
    def __call__(self, x):
        return nn.Dense(O, use_bias=self.bias)(x)


def with_head(net, head):
    return tj.network(
        [*((stage.name, stage.module) for stage in net.stages[:-1]), (net.names[-1], head)]
    )


def changed_guide(**stages):
    return {name: tree for name, tree in (GUIDE_VARIABLES | stages).items() if tree is not None}


NAN_ROW = np.where(np.arange(N)[:, None] == 3, np.nan, X).astype(np.float32)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"mapping": {"a": "first"}},
            "the mapping is {'a': 'first'}, a dict; write it as text: 'auto' or",
        ),
        ({"mapping": [("a", "first")]}, "a list; write it as text"),
        ({"mapping": None}, "the mapping is None"),
        ({"key": 0}, r"key is 0, a int; give jax.random.key\(0\)"),
        ({"key": np.zeros(2, np.uint32)}, r"give jax.random.key\(0\)"),
        (
            {"guide_variables": {"params": GUIDE_VARIABLES}},
            r"hold params and no stage of the guide \(a, b, c, out\); give {stage",
        ),
        ({"guide_variables": None}, "hold NoneType and no stage"),
        (
            {"guide_variables": changed_guide(b=None)},
            "no b/params/Dense_0/bias, which the guide's stage 'b' reads",
        ),
        (
            {"guide_variables": changed_guide(b=GUIDE_VARIABLES["a"])},
            r"b/params/Dense_0/kernel of shape \(8, 24\) .* needs \(24, 24\)",
        ),
        (
            {
                "guide_variables": changed_guide(
                    c=jax.tree.map(lambda leaf: leaf * np.nan, GUIDE_VARIABLES["c"])
                )
            },
            "c/params/Dense_0/bias at 0 is nan, not a finite number; the guide has diverged",
        ),
        ({"inputs": NAN_ROW.tolist()}, r"inputs at \(3, 0\) is nan"),
        (
            {"inputs": NAN_ROW},
            r"inputs at \(3, 0\) is nan, not a finite number; leave such rows out",
        ),
        (
            {"guide": tj.network([("all", nn.Dense(O))])},
            "the guide is one stage, 'all'; split it in at least two",
        ),
        ({"target": tj.network([("all", nn.Dense(O))])}, "the target is one stage, 'all'"),
        (
            {"target": with_head(TARGET, Wrapped())},
            "the target's 'logits' is a Wrapped, not a linear head; end the target with nn.Dense",
        ),
        (
            {"target": with_head(TARGET, nn.Dense(O, use_bias=False))},
            "the target's 'logits' has no bias, which the folded stitch needs",
        ),
    ],
)
def test_what_cannot_work_is_told_before_the_first_step(monkeypatch, changes, message):
    monkeypatch.setattr(in_memory, "fit", lambda *_, **__: pytest.fail("it trained"))
    given = {
        "guide": GUIDE,
        "guide_variables": GUIDE_VARIABLES,
        "target": TARGET,
        "inputs": X,
        "key": KEY,
    } | changes
    with pytest.raises(UserError, match=message) as caught:
        tj.convert(**given)
    assert "\n" not in str(caught.value)


def test_the_guide_s_head_too_is_judged_first(monkeypatch):
    monkeypatch.setattr(in_memory, "fit", lambda *_, **__: pytest.fail("it trained"))
    guide = with_head(GUIDE, Wrapped())
    with pytest.raises(
        UserError,
        match="the guide's 'out' is a Wrapped, not a linear head; end the guide with nn.Dense",
    ):
        tj.convert(guide, tj.init(guide, KEY, X[:1]), TARGET, X, key=KEY)


def test_settings_have_defaults_and_take_a_metric_by_name():
    settings = tj.methods.convert.Settings(metric="cka_debiased", steps=7)
    assert settings.metric == metric("cka_debiased") and settings.schedule == "joint"
    assert tj.methods.convert.Settings().metric == metric("procrustes")
    with pytest.raises(UserError, match="metric: 'cka2' is not a similarity, expected one of"):
        tj.methods.convert.Settings(metric="cka2")


def test_one_logit_is_distilled_as_yes_or_no():
    guide, target = with_head(GUIDE, nn.Dense(1)), with_head(TARGET, nn.Dense(1))
    guide_variables = jax.tree.map(
        lambda leaf: 2.0 * leaf, tj.init(guide, jax.random.key(7), X[:1])
    )
    guide_variables["out"]["params"]["bias"] = -jnp.median(
        tj.forward(guide, guide_variables, X)[0], axis=0
    )
    variables, history = tj.convert(
        guide, guide_variables, target, X, key=KEY, mapping="a=first, c=second"
    )
    trained = [row["kl"] for row in history if row.get("phase") == "finetune" and "kl" in row]
    assert trained[0] > 0 and trained[-1] < 0.5 * trained[0]
    answers = [
        np.asarray(tj.forward(*pair, X)[0])[:, 0] > 0
        for pair in ((guide, guide_variables), (target, variables))
    ]
    assert 0.2 < answers[0].mean() < 0.8 and (answers[0] == answers[1]).mean() > 0.8
    with pytest.raises(
        UserError, match=r"2048 inputs and 2 classes; give \(N,\) integers in 0 .. 1"
    ):
        tj.convert(guide, guide_variables, target, X, np.full(N, 2), key=KEY)


def test_stages_without_parameters_and_pictures():
    pictures = np.random.default_rng(0).normal(size=(96, 8, 8, 1)).astype(np.float32)
    guide = tj.network(
        [("conv", nn.Conv(4, (3, 3))), ("relu", Act()), ("flat", Flat()), ("out", nn.Dense(3))]
    )
    target = tj.network([("flat", Flat()), ("hidden", Layer(16)), ("out", nn.Dense(3))])
    guide_variables = tj.init(guide, jax.random.key(2), pictures[:1])
    settings = tj.methods.convert.Settings(
        "joint",
        metric("procrustes"),
        10,
        align=0.2,
        samples="pooled",
        finish_kl=1.0,
        finish_align=1.0,
    )
    variables, _ = tj.convert(
        guide,
        guide_variables,
        target,
        pictures,
        key=KEY,
        mapping="flat=hidden",
        settings=settings,
        batch=32,
    )
    assert (
        variables["flat"] == {} and jnp.isfinite(tj.forward(target, variables, pictures)[0]).all()
    )
    with pytest.raises(
        UserError, match="the guide has no stage between its first and its last .* give a mapping"
    ):
        tj.convert(guide, guide_variables, target, pictures, key=KEY, settings=settings, batch=32)


class Act(nn.Module):
    def __call__(self, x):
        return nn.relu(x)


class Flat(nn.Module):
    def __call__(self, x):
        return x.reshape(len(x), -1)
