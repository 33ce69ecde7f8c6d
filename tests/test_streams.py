"""Streams of tasks: what each task holds, in which order examples come, and a whole run."""

import json

import jax
import numpy as np
import pytest
from settings import changed

import theseus_jax as tj
from theseus_jax.config import base
from theseus_jax.data import streams
from theseus_jax.data.labelled import digits
from theseus_jax.errors import UserError
from theseus_jax.order import Epochs, Tasks, batch_rows, seed_rows

pytestmark = pytest.mark.slow

DATA = digits(image=True, limit=(300, 60, 90))


def task(stream, t):
    first, last = stream.bounds[t : t + 2]
    return stream.train.x[first:last], stream.train.y[first:last]


def test_a_split_stream_has_two_new_classes_a_task_and_is_scored_on_all_so_far():
    stream = streams.made(DATA, "split", 5, 0, 0)
    for t in range(5):
        x, y = task(stream, t)
        assert set(y) == {2 * t, 2 * t + 1}
        assert set(stream.test[t].y) == set(range(2 * t + 2))
        rows = np.isin(DATA.train.y, (2 * t, 2 * t + 1))
        np.testing.assert_array_equal(x, DATA.train.x[rows])
    assert stream.cumulative and len(stream.test[-1].y) == len(DATA.test.y)


def test_a_permuted_stream_moves_all_numbers_of_a_task_alike():
    stream = streams.made(DATA, "permuted", 3, 50, 0)
    np.testing.assert_array_equal(stream.test[0].x, DATA.test.x)
    flat = [part.x.reshape(len(part.x), -1) for part in stream.test]
    orders = []
    for moved in flat:
        columns = {column.tobytes(): i for i, column in enumerate(flat[0].T)}
        orders.append([columns[column.tobytes()] for column in moved.T])
        np.testing.assert_array_equal(np.sort(moved, axis=1), np.sort(flat[0], axis=1))
    assert orders[1] != orders[0] and orders[2] != orders[1]
    x, y = task(stream, 1)
    assert len(x) == 50 and (y == stream.train.y[50:100]).all()
    known = {image.tobytes(): label for image, label in zip(flat[1], DATA.test.y)}
    validation = stream.validation[1].x.reshape(len(DATA.validation.y), -1)
    back = DATA.validation.x.reshape(len(validation), -1)
    np.testing.assert_array_equal(np.sort(validation, axis=1), np.sort(back, axis=1))
    assert len(known) > 80


def test_random_labels_are_drawn_anew_and_scored_on_themselves():
    stream = streams.made(DATA, "random_labels", 4, 100, 0)
    labels = [task(stream, t)[1] for t in range(4)]
    for t in range(4):
        x, y = task(stream, t)
        np.testing.assert_array_equal(x, stream.test[t].x)
        np.testing.assert_array_equal(y, stream.test[t].y)
        true = {image.tobytes(): label for image, label in zip(*DATA.train)}
        right = np.mean([true[image.tobytes()] == label for image, label in zip(x, y)])
        assert right < 0.25 and len(np.unique(y)) == 10
    assert (labels[0] != labels[1]).mean() > 0.8


def test_five_classes_and_one_take_turns():
    stream = streams.made(DATA, "five_plus_one", 4, 20, 0)
    assert [len(set(task(stream, t)[1])) for t in range(4)] == [5, 1, 5, 1]
    assert [len(set(stream.test[t].y)) for t in range(4)] == [5, 1, 5, 1]
    assert all(len(task(stream, t)[1]) <= 20 * (1 if t % 2 else 5) for t in range(4))


def test_tasks_come_in_order_in_epochs_of_their_own():
    order = Tasks((0, 40, 100), 7, np.zeros(100))
    key = jax.random.key(0)
    rows = order.rows(key, 100, 10, 0, 14)
    assert rows[:7].max() < 40 <= rows[7:].min() and rows.max() < 100
    assert sorted(rows[:4].ravel()) == list(range(40))
    assert sorted(rows[7:13].ravel()) == list(range(40, 100))
    np.testing.assert_array_equal(order.rows(key, 100, 10, 5, 4), rows[5:9])
    other = order.rows(jax.random.key(1), 100, 10, 0, 14)
    assert (other != rows).any()
    np.testing.assert_array_equal(order.rows(key, 100, 10, 20, 1) >= 40, True)  # after the end
    plain = seed_rows(Epochs(), jax.random.split(key, 2), 40, 10, 3, 2)
    np.testing.assert_array_equal(plain[1], batch_rows(jax.random.split(key, 2)[1], 40, 10, 3, 2))
    with pytest.raises(UserError, match="over 100 examples was given 90"):
        order.rows(key, 90, 10, 0, 1)


def test_replayed_examples_are_of_earlier_tasks_and_few_of_each_class():
    labels = np.repeat([0, 1, 2, 3], 50)
    order = Tasks((0, 100, 200), 30, labels, replay=0.5, of_class=4, buffer=6)
    rows = order.rows(jax.random.key(0), 200, 10, 0, 60)
    assert rows[:30].max() < 100
    old, new = rows[30:, 5:], rows[30:, :5]
    assert old.max() < 100 <= new.min()
    kept = np.unique(old)
    assert len(kept) == 6 and np.bincount(labels[kept]).tolist() == [3, 3]
    again = order.rows(jax.random.key(0), 200, 10, 42, 3)
    np.testing.assert_array_equal(again, rows[42:45])


@pytest.mark.parametrize(
    "kind, tasks, message",
    [
        ("split", 3, "10 classes do not divide into 3 tasks"),
        ("permuted", 1, "a stream of 1 tasks is none"),
    ],
)
def test_streams_that_cannot_be_are_named(kind, tasks, message):
    with pytest.raises(UserError, match=message):
        streams.made(DATA, kind, tasks, 0, 0)


TINY = {
    "data.train": 200,
    "data.validation": 60,
    "data.test": 80,
    "stream.tasks": 5,
    "stream.steps": 6,
    "target.arch": "mlp",
    "target.width": 16,
    "target.depth": 2,
    "target.norm": "none",
    "plasticity.interval": 4,
    "plasticity.doctor": 3,
    "plasticity.maturity": 3,
    "plasticity.rate": 0.05,
    "search.rates": (1e-2, 1e-1),
    "search.seeds": 1,
    "train.batch": 10,
    "train.chunk": 3,
    "seeds": 2,
    "report.latency_repeats": 2,
}


@pytest.mark.parametrize("kind", ("split", "random_labels"))
def test_a_run_on_a_stream_scores_every_task(kind, tmp_path):
    arms = (
        "dense",
        "prune",
        "grow",
        "redo",
        "continual_backprop",
        "self_normalized_resets",
        "upgd",
    )
    arms += ("shrink_perturb", "l2_to_start")
    values = {"stream.kind": kind, "stream.count": 60, "arms": arms, "stream.replay": 0.2}
    results = tj.run(changed(base("stream", "plasticity"), {**TINY, **values}), tmp_path)
    assert tuple(model["name"] for model in results["models"]) == arms
    table = {row["model"]: row for row in results["tables"]["cycles"]["rows"]}
    assert all(0 < row["online"] < 1 for row in table.values())
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    mine = [row for row in log if row["kind"] == "train" and row["model"] == "dense"]
    early = [row["accuracy"] for row in mine if row["seed"] >= 0 and row["step"] % 6 == 3]
    assert table["dense"]["early"] == pytest.approx(np.mean(early))  # chunks of 3 of 6 steps
    values = {model["name"]: model["seeds"] for model in results["models"]}
    assert len({tuple(one) for one in values.values()}) > 3
    assert table["dense"]["acc"] == pytest.approx(np.mean(values["dense"]))
    assert all(model["optimizer_steps"] == 30 for model in results["models"])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stream.kind": "circular"}, "config.stream.kind is 'circular'; choose one of split"),
        ({"stream.replay": 1.0}, "config.stream.replay is 1.0; give a number in .0, 1."),
        ({"arms": ("grow", "grow_ticket")}, "config.arms has grow_ticket; choose from dense"),
    ],
)
def test_mistakes_in_a_stream_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        tj.dry_run(changed(base("stream", "plasticity"), {**TINY, **changes}))
