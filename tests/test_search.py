"""Which trial a search takes, and what a model's training is said to have cost, by rows as they are
written.
"""

from types import SimpleNamespace

import pytest

from theseus_jax.experiment.search import best_trial
from theseus_jax.records import training_flops
from theseus_jax.tasks import Compared


@pytest.mark.parametrize(
    "compared, scores, losses, best",
    [
        (Compared("accuracy", 1.0, "accuracy"), [0.5, 0.9, 0.9], [1.0, 0.4, 0.3], 2),
        (Compared("loss", -1.0, "nats"), None, [1.0, 0.4, 0.7], 1),
        (Compared("loss", -1.0, "nats"), None, [None, 2.0, 1.5], 2),
    ],
)
def test_the_best_trial_has_the_best_score_then_the_lower_loss(compared, scores, losses, best):
    rows = [
        {"kind": "trial", "model": "a", "trial": i, "seed": seed, "validation_loss": loss}
        | ({} if scores is None else {f"validation_{compared.key}": scores[i]})
        for i, loss in enumerate(losses)
        for seed in (-1, -2)
    ]
    rows += [dict(row, model="b", validation_loss=0.0) for row in rows]
    home = SimpleNamespace(records=SimpleNamespace(read=lambda: rows))
    run = SimpleNamespace(home=home, task=SimpleNamespace(compared=compared))
    search = SimpleNamespace(trials=("first", "second", "third"))
    arm = SimpleNamespace(name="a")
    assert best_trial(run, arm, search) == search.trials[best]


def test_training_is_counted_for_one_seed_with_what_was_kept_once():
    rows = [
        {"kind": "train", "model": "a", "seed": seed, "training_flops": 10.0 + seed}
        for seed in (-1, 0, 0, 1)
    ]
    rows += [
        {"kind": "stored", "model": "a", "training_flops": 5.0},
        {"kind": "train", "model": "b", "seed": 0, "training_flops": 7.0},
        {"kind": "score", "model": "a", "seed": 0},
    ]
    assert training_flops(rows, "a") == 25.0
