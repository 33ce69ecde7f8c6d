"""A whole run whose target inherits attentions: windows of equal state, what it begins with, losses
by position, kept attentions, and what cannot be meant.
"""

import json

import jax
import numpy as np
import pytest
from killing import rows
from settings import changed
from small_text import LANGUAGE, write_texts

import theseus_jax as tj
from theseus_jax.config import base
from theseus_jax.data import text
from theseus_jax.data.windows import evaluation_windows
from theseus_jax.errors import UserError
from theseus_jax.evaluate import token_loss
from theseus_jax.experiment import engine
from theseus_jax.nets import decode
from theseus_jax.nets.stage import forward
from theseus_jax.nets.weights.gpt2 import save_gpt2
from theseus_jax.tasks import lengths
from theseus_jax.trees import bit_equal

TINY = LANGUAGE | {
    "data.context": 16,
    "data.test": 0.3,
    "target.heads": 2,
    "target.cell": "linear_attention",
    "convert.schedule": "one_shot",
    "convert.inherit": ("embed", "ln_1", "ln_2", "attn", "mlp", "norm", "head"),
    "convert.decays": "measured",
    "convert.transfer": 4,
    "convert.steps": 6,
    "controls.names": ("one_shot", "window", "window_distilled"),
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"), 40)


def tiny(texts, **changes):
    return changed(base(), {**TINY, "data.path": str(texts)}, **changes)


@pytest.fixture(scope="module")
def finished(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    return path, tj.run(tiny(texts), path)


def corpus_of(texts):
    return text.load_corpus(
        source="directory",
        path=texts,
        tokenizer="bytes",
        validation_fraction=0.2,
        test_fraction=0.3,
    )


def test_a_window_is_the_guide_cut_to_the_bytes_of_the_targets_state(finished, texts):
    path, results = finished
    models = {model["name"]: model for model in results["models"]}
    net, variables = tj.restore(path, model="window")
    guide, given = tj.restore(path, model="guide")
    assert bit_equal(variables, given) and "window_equal_flops" not in models
    one = decode.state_bytes(guide, 2) - decode.state_bytes(guide, 1)
    target = decode.state_bytes(tj.restore(path, model="converted")[0], 16)
    mixing = net.stages[1].module.mixing()
    assert mixing.window + mixing.sinks == min(target // one, 16)
    assert decode.state_bytes(net, 16) <= target + 4 * 2  # two counters of tokens
    windows, mask = evaluation_windows(corpus_of(texts).test, 16, "test")
    stacked = jax.tree.map(lambda leaf: leaf[None], given)
    (loss,) = token_loss(net, stacked, windows, mask)
    assert models["window"]["losses"] == pytest.approx([loss, loss], rel=1e-6)
    assert models["window"]["optimizer_steps"] == 0


def test_the_distilled_window_begins_as_the_guide_and_moves(finished, texts):
    path, _ = finished
    config = tiny(texts)
    task, method = engine.parts(config)
    arm = {arm.name: arm for arm in method.arms(config, task)}["window_distilled"]
    (phase,) = arm.plan(arm.first())
    assert str(phase.edits[0]) == "inherit embed, block_1, block_2, norm from the guide"
    assert len(phase.edits) == 1
    _, moved = tj.restore(path, model="window_distilled")
    _, given = tj.restore(path, model="guide")
    assert jax.tree.structure(moved) == jax.tree.structure(given) and not bit_equal(moved, given)


def test_what_the_target_begins_with_is_told_with_its_loss(finished):
    path, results = finished
    begun = [row for row in rows(path) if row["kind"] == "begin"]
    assert [(row["model"], row["seed"]) for row in begun] == [
        ("converted", 0),
        ("converted", 1),
    ] * 3
    table = results["tables"]["begin"]["rows"]
    assert [row["edit"].split()[0] for row in table] == ["inherit", "forget", "fit"]
    for row in table:
        values = [r["validation_loss"] for r in begun if r["edit"] == row["edit"]]
        assert row["value"] == pytest.approx(np.mean(values)) and len(values) == 2
    assert "What the target begins with" in (path / "report.html").read_text()
    spent = [row for row in rows(path) if row["kind"] == "stored"]
    assert [row["model"] for row in spent[:2]] == ["converted", "one_shot"]
    assert all(row["seconds"] > 0 and row["training_flops"] > 0 for row in spent)
    models = {model["name"]: model for model in results["models"]}
    trained = sum(
        row["training_flops"]
        for row in rows(path)
        if row["kind"] == "train" and row["model"] == "converted" and row["seed"] == 0
    )
    wanted = trained + spent[0]["training_flops"]
    assert models["converted"]["training_flops"] == pytest.approx(wanted)


def test_losses_by_position_are_those_of_longer_windows(finished, texts):
    path, results = finished
    table = {row["model"]: row for row in results["tables"]["positions"]["rows"]}
    tokens = corpus_of(texts).test
    net, variables = tj.restore(path, model="converted")
    count = (len(tokens) - 1) // 128 // lengths.BATCH * lengths.BATCH
    losses = np.zeros(128)
    for i in range(count):
        window = tokens[i * 128 : i * 128 + 129].astype(np.int32)
        logits = np.asarray(forward(net, variables, window[None, :-1])[0][0], np.float64)
        top = logits.max(-1)
        total = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        losses += total - logits[np.arange(128), window[1:]]
    losses /= count
    for a, b in ((0, 2), (2, 8), (8, 16), (16, 32), (32, 64), (64, 128)):
        assert table["converted"][f"from_{a}"] == pytest.approx(losses[a:b].mean(), rel=1e-5)
    assert "from_16" not in table["guide"] and "from_8" in table["window"]
    assert set(table) == {"guide", "converted", "one_shot", "window", "window_distilled"}


def test_a_short_split_is_read_no_further_than_it_goes():
    assert lengths.edges(16, 8) == [0, 2, 8, 16, 32, 64, 128] and lengths.edges(2, 1) == [0, 1, 2]
    net = tj.nets.models.recurrent.recurrent(
        vocabulary=9, width=8, depth=1, kind="linear_attention", heads=2
    )
    variables = tj.init(net, jax.random.key(0), np.zeros((1, 4), np.int32))
    tokens = np.arange(70) % 9
    (row,) = lengths.table([("net", net, variables)], tokens, 4)["rows"]
    assert [key for key in row if key != "model"] == ["from_0", "from_2", "from_4", "from_8"]


@pytest.mark.slow
def test_a_kept_attention_stays_in_the_target(texts, tmp_path):
    config = tiny(
        texts,
        convert__keep=("block_2/attn",),
        convert__inherit=("embed", "norm", "head"),
        convert__decays="fresh",
        convert__transfer=0,
        target__cell="linear",
        target__hidden=8,
        controls__names=("one_shot_distilled",),
        controls__equal_flops=False,
        convert__finish_kl=0.5,
    )
    results = tj.run(config, tmp_path)
    for name in ("converted", "one_shot_distilled"):
        net, variables = tj.restore(tmp_path, model=name)
        assert "attn" in variables["block_2"]["params"] and "rnn" in variables["block_1"]["params"]
    state = {model["name"]: model["state_bytes"] for model in results["models"]}["converted"]
    assert state["1024"] - state["128"] == (1024 - 128) * 2 * 16 * 4
    plan = (tmp_path / "plan.txt").read_text()
    assert "inherit attn from the guide" in plan


@pytest.mark.parametrize(
    "changes, word",
    [
        (
            {"convert.keep": ("block_3/attn",)},
            "which is no attention of the guide; choose from block_1/attn, block_2/attn",
        ),
        ({"convert.keep": ("block_1",)}, "'block_1', which is no attention of the guide"),
        ({"target.heads": 4}, "has 4 heads and the guide's block_1 2; set target.heads"),
        (
            {"target.cell": "elman", "convert.inherit": (), "controls.names": ()},
            "no linear attention of the target",
        ),
        ({"target.decay": False}, "target.decay to True"),
        ({"convert.decays": "guessed"}, "convert.decays"),
        ({"target.features": "relu"}, "no features 'relu'; choose one of hedgehog, elu"),
        (
            {
                "target.cell": "elman",
                "target.hidden": 1,
                "target.depth": 1,
                "convert.inherit": (),
                "convert.decays": "fresh",
                "convert.transfer": 0,
            },
            "bytes holds no token of the guide's keys and values, 256 bytes each; leave",
        ),
    ],
)
def test_what_cannot_be_inherited_is_refused_before_any_data(texts, changes, word):
    with pytest.raises(UserError, match=word):
        engine.rehearsed(changed(tiny(texts), changes))


PICTURES = {"guide.arch": "mlp", "target.arch": "mlp"} | {
    f"{side}.{key}": 8 for side in ("guide", "target") for key in ("width", "depth")
}


@pytest.mark.parametrize(
    "changes, word",
    [
        (
            {"convert.keep": ("block_1/attn",)},
            "the networks of this task have no attention that can stay",
        ),
        (
            {"controls.names": ("window",)},
            "has window, and the networks of this task have no attention to cut",
        ),
    ],
)
def test_pictures_have_no_attention_to_keep_or_cut(changes, word):
    with pytest.raises(UserError, match=word):
        engine.rehearsed(changed(base("classification"), PICTURES | changes))


def folder_of(path, net, variables, **settings):
    """A folder as save_pretrained leaves it, of a GPT-2 of TINY's sizes."""
    path.mkdir()
    save_gpt2(path / "model.safetensors", variables)
    given = {
        "model_type": "gpt2",
        "vocab_size": 257,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 16,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "eos_token_id": 256,
    }
    (path / "config.json").write_text(json.dumps({**given, **settings}))
    return path


@pytest.mark.slow
def test_a_guide_from_a_folder_is_the_guide_that_was_saved(finished, texts, tmp_path):
    path, results = finished
    folder = folder_of(tmp_path / "guide", *tj.restore(path, model="guide"))
    usual = {"guide.width": 128, "guide.depth": 4, "guide.heads": 4}  # left as they are
    config = changed(
        tiny(texts),
        usual | {"guide.origin": "file", "guide.weights": str(folder)},
        **{f"target__{key}": 0 for key in ("width", "depth", "heads")},
        controls__names=("one_shot",),
        controls__equal_flops=False,
    )
    again = tj.run(config, tmp_path / "run")
    first, second = (
        {model["name"]: model["losses"] for model in found["models"]} for found in (results, again)
    )
    assert second["guide"] == pytest.approx(first["guide"], rel=1e-6)
    # the same conversion, but for the schedule's keys
    assert second["converted"] == pytest.approx(first["converted"], rel=1e-4)
    ours, theirs = (tj.restore(home, model="guide")[1] for home in (path, tmp_path / "run"))
    assert bit_equal(ours, theirs)


def test_a_folders_tokenizer_and_network_go_together(texts, tmp_path):
    from test_folders import tokenizer_folder

    sizes = {"vocabulary": 300, "width": 16, "depth": 2, "heads": 2, "positions": 16}
    net = tj.nets.models.gpt2.gpt2(**sizes)
    nothing = jax.tree.map(np.zeros_like, tj.init(net, jax.random.key(0), np.zeros((1, 4), int)))
    folder = folder_of(tmp_path / "guide", net, nothing, vocab_size=300, eos_token_id=None)
    ids = tokenizer_folder(folder)
    config = changed(
        tiny(texts),
        {"guide.origin": "file", "guide.weights": str(folder), "data.tokenizer": "guide"},
    )
    task, _ = engine.parts(config)
    assert task.vocabulary == 300 and task.target().stages[-1].module.vocabulary == 300
    corpus = task.corpus(tmp_path / "cache")
    assert corpus.vocabulary == 300 and corpus.train[0] == ids["<|endoftext|>"]
    assert ids["Ġcat"] in corpus.train and ids["Ġthe"] in corpus.train
    _, data = task.load(tmp_path / "cache")
    loss = data.sets(0).validation.scores(net, jax.tree.map(lambda x: x[None], nothing))["loss"]
    assert loss[0] == pytest.approx(np.log(300), rel=1e-5)
    stacked = task.begin(net, {}, data.sets(0))  # just as good as guessing
    rng = np.random.default_rng(0)
    noise = jax.tree.map(lambda leaf: rng.normal(0, 3, leaf.shape).astype(np.float32), nothing)
    save_gpt2(folder / "model.safetensors", noise)
    with pytest.raises(UserError, match="worse than guessing"):
        task.begin(net, {}, data.sets(0))
    assert jax.tree.leaves(stacked)[0].shape[0] == 1


@pytest.mark.parametrize(
    "changes, word",
    [
        (
            {"data.tokenizer": "bpe", "data.vocabulary": 300},
            "has 257 tokens and config.data.tokenizer 'bpe' has 300; set",
        ),
        ({"guide.heads": 8}, "config.guide.heads is 8, and .*config.json says 2; leave"),
        ({"data.context": 32}, "config.data.context is 32, and the guide in .* has 16 positions"),
        ({"target.width": -1}, "config.target.width is -1; give a number at least 0"),
    ],
)
def test_a_folder_that_does_not_fit_the_config_is_refused(texts, tmp_path, changes, word):
    net = tj.nets.models.gpt2.gpt2(vocabulary=257, width=16, depth=2, heads=2, positions=16)
    variables = tj.init(net, jax.random.key(0), np.zeros((1, 4), np.int32))
    folder = folder_of(tmp_path / "guide", net, variables)
    given = {"guide.origin": "file", "guide.weights": str(folder)}
    with pytest.raises(UserError, match=word):
        engine.rehearsed(changed(tiny(texts), given | changes))


def test_the_target_has_the_activation_epsilon_and_mlp_of_the_folder(texts, tmp_path):
    net = tj.nets.models.gpt2.gpt2(
        vocabulary=257, width=16, depth=2, heads=2, positions=16, hidden=24
    )
    variables = tj.init(net, jax.random.key(0), np.zeros((1, 4), np.int32))
    changes = {"activation_function": "relu", "layer_norm_epsilon": 1e-3, "n_inner": 24}
    folder = folder_of(tmp_path / "guide", net, variables, **changes)
    given = {"guide.origin": "file", "guide.weights": str(folder)}
    task, _ = engine.parts(changed(tiny(texts), given))
    for net in (task.target(), task.guide(), task.windowed(9000)):
        block = net.stages[1].module
        mlp = block.channel_mixer
        assert (mlp.activation, block.norm.epsilon, mlp.hidden) == ("relu", 1e-3, 24)
        assert net.stages[-2].module.epsilon == 1e-3
    settled = task.settled()
    assert settled.guide.activation == "relu" and settled.guide.origin == "untrained"
    assert type(task)(settled).target() == task.target()
    wider = task.target(expansion=2).stages[1].module
    assert wider.channel_mixer.hidden == 32  # of its own


def test_a_folder_without_its_config_is_refused(texts, tmp_path):
    given = {"guide.origin": "file", "guide.weights": str(tmp_path)}
    with pytest.raises(UserError, match="has no config.json, which says what no tensor does"):
        engine.rehearsed(changed(tiny(texts), given))


def test_the_guides_tokenizer_needs_a_folder(texts):
    with pytest.raises(UserError, match="no guide comes from a folder; set guide.origin to 'file'"):
        engine.rehearsed(tiny(texts, data__tokenizer="guide"))
