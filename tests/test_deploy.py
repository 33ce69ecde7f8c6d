"""A model that leaves: the exported folder in a process without theseus_jax, batches never seen at
export, the same tokens, the commands, and what is refused.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import changed
from test_inheriting_run import texts, tiny  # noqa: F401  # a fixture

import theseus_jax as tj
from theseus_jax.config import base
from theseus_jax.errors import UserError
from theseus_jax.nets import decode
from theseus_jax.trees import bit_equal

pytestmark = pytest.mark.slow  # a run and an export come first
ROOT = pathlib.Path(__file__).resolve().parents[1]
APART = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from load import WEIGHTS, program, state
forward, step = program("forward"), program("step")
found = {}
for batch in (1, 3):
    x = (np.arange(batch * 16).reshape(batch, 16) * 7 % 250).astype(np.int32)
    np.save(f"{sys.argv[2]}/logits{batch}.npy", forward(WEIGHTS, x))
    carried, tokens = state(batch), x[:, 0]
    for t in range(80):
        logits, carried = step(WEIGHTS, tokens, carried)
        tokens = x[:, t + 1] if t < 15 else np.argmax(logits, axis=-1).astype(np.int32)
        found.setdefault(str(batch), []).append(tokens.tolist())
ours = sorted(name for name in sys.modules if name.startswith("theseus"))
print(json.dumps({"tokens": found, "modules": ours}))
"""


@pytest.fixture(scope="module")
def deployed(texts, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("runs") / "a"
    config = tiny(
        texts, data__tokenizer="bpe", data__vocabulary=280, controls__names=(), guide__steps=20
    )
    tj.run(config, path)
    folder = tj.export(path, path.parent / "out")
    return path, folder


def greedy(net, variables, x, count):
    """Tokens after each step, as APART writes them down."""
    carries, tokens, found = decode.initial_carries(net, len(x), x.shape[1]), x[:, 0], []
    one = jax.jit(lambda tokens, carries: decode.step(net, variables, tokens, carries))
    for t in range(count):
        logits, carries = one(jnp.asarray(tokens), carries)
        tokens = x[:, t + 1] if t < 15 else np.argmax(logits, axis=-1).astype(np.int32)
        found.append(np.asarray(tokens).tolist())
    return found


def test_a_process_without_theseus_jax_gives_the_same(deployed, tmp_path):
    path, folder = deployed
    done = subprocess.run(
        [sys.executable, "-c", APART, str(folder), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["modules"] == []
    net, variables = tj.restore(path)
    for batch in (1, 3):
        x = (np.arange(batch * 16).reshape(batch, 16) * 7 % 250).astype(np.int32)
        theirs = np.load(tmp_path / f"logits{batch}.npy")
        np.testing.assert_allclose(tj.forward(net, variables, x)[0], theirs, rtol=0, atol=1e-5)
        assert said["tokens"][str(batch)] == greedy(net, variables, x, 80)  # 64 of its own and more
    assert len((folder / "load.py").read_text().splitlines()) <= 20


def test_the_folder_is_read_back_whole(deployed):
    path, folder = deployed
    net, variables = tj.restore(path)
    made = tj.load(folder)
    assert made.net == net and bit_equal(made.variables, variables)
    text = "the cats sat"
    assert made.tokenizer.decode(made.tokenizer.encode(text)) == text
    results = json.loads((path / "results.json").read_text())
    assert made.config["vocabulary"] == 280 == made.tokenizer.vocabulary
    assert made.tokenizer.separator == made.config["separator"] == 279
    card = (folder / "README.md").read_text()
    loss = {model["name"]: model["loss"] for model in results["models"]}
    assert f"{loss['converted']:.4f}" in card and f"{loss['guide']:.4f}" in card
    assert results["data"]["sha256"] in card and "no ONNX" in card
    assert "step reads on for as long as is wanted" in card
    state = made.config["state"]["block_1/state"]
    assert state == {"shape": ["b", 2, 16, 9], "dtype": "float32"}


def test_the_guide_is_exported_with_the_end_of_its_positions(deployed, tmp_path):
    path, _ = deployed
    folder = tj.export(path, tmp_path / "guide", model="guide")
    assert "step reads on to 16 tokens" in (folder / "README.md").read_text()
    made = tj.load(folder)
    with pytest.raises(UserError, match="more than the 16 learned positions"):
        decode.check_length(made.net, made.variables, 17)


def launched(command, *given):
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / command), *map(str, given)],
        capture_output=True,
        text=True,
    )


def test_the_commands_export_and_write(deployed, tmp_path):
    path, _ = deployed
    done = launched("export.py", path, f"--out={tmp_path / 'out'}")
    assert done.returncode == 0 and "step.stablehlo" in done.stdout, done.stderr
    done = launched("generate.py", tmp_path / "out", "--prompt=the ", "--length=30")
    assert done.returncode == 0 and done.stdout.startswith("the "), done.stderr
    assert "tokens/s" in done.stderr
    again = launched("generate.py", tmp_path / "out", "--prompt=the ", "--length=30")
    assert again.stdout == done.stdout
    several = launched("generate.py", tmp_path / "out", "--prompt=the ", "--length=9", "--batch=3")
    assert several.stdout.count("the ") >= 3 and several.stdout.count("-" * 60) == 3
    made = tj.load(tmp_path / "out")
    prompt = made.tokenizer.encode("the ")
    likeliest = launched(
        "generate.py", tmp_path / "out", "--prompt=the ", "--length=12", "--temperature=0"
    )
    carries = decode.initial_carries(made.net, 1, 16)
    for token in prompt:
        logits, carries = decode.step(made.net, made.variables, jnp.asarray([token]), carries)
    written = []
    for _ in range(12):
        written.append(int(np.argmax(logits)))
        logits, carries = decode.step(made.net, made.variables, jnp.asarray(written[-1:]), carries)
    text = "the " + made.tokenizer.decode(np.asarray(written))
    assert likeliest.stdout.strip("\n") == text.strip("\n")
    refused = launched("generate.py", tmp_path, "--prompt=x")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "has no config.json; give a folder that launch/export.py wrote" in refused.stderr


@pytest.mark.parametrize("case", ["unfinished", "model", "full", "format", "parts", "text"])
def test_what_cannot_be_exported_or_read_is_refused(deployed, tmp_path, case):
    path, folder = deployed
    words = {
        "unfinished": "holds no finished run .no results.json.; run its config to the end first",
        "model": "holds no finished model 'one_shot'; it has converted, guide",
        "full": "is not an empty folder; give another --out",
        "format": "has the format 7 and this version reads 1; export the run again",
        "parts": "do not belong together: norm/params/bias is in one of them alone",
        "text": "the text has changed since the run",
    }
    with pytest.raises(UserError, match=words[case]):
        if case == "unfinished":
            (tmp_path / "run").mkdir()
            tj.export(tmp_path / "run", tmp_path / "out")
        elif case == "model":
            tj.export(path, tmp_path / "out", model="one_shot")
        elif case == "full":
            tj.export(path, folder)
        elif case == "text":
            copy = shutil.copytree(path, tmp_path / "run")
            results = json.loads((copy / "results.json").read_text())
            results["data"]["sha256"] = "0" * 64
            (copy / "results.json").write_text(json.dumps(results))
            tj.export(copy, tmp_path / "out")
        else:
            copy = shutil.copytree(folder, tmp_path / "copy")
            known = json.loads((copy / "config.json").read_text())
            if case == "format":
                (copy / "config.json").write_text(json.dumps({**known, "format": 7}))
            else:
                from safetensors.numpy import load_file, save_file

                weights = load_file(copy / "model.safetensors")
                del weights["norm/params/bias"]
                save_file(weights, copy / "model.safetensors")
            tj.load(copy)


def test_an_image_target_leaves_too(tmp_path):
    small = {
        "data.train": 120,
        "data.validation": 40,
        "data.test": 40,
        "guide.arch": "mlp",
        "target.arch": "mlp",
        "guide.width": 16,
        "guide.depth": 2,
        "target.width": 16,
        "target.depth": 2,
        "guide.steps": 10,
        "convert.steps": 6,
        "controls.names": (),
        "train.chunk": 3,
        "train.batch": 20,
        "seeds": 2,
        "report.latency_repeats": 2,
    }
    config = changed(base("classification"), small)
    tj.run(config, tmp_path / "run")
    folder = tj.export(tmp_path / "run", tmp_path / "out", seed=1)
    made = tj.load(folder)
    net, variables = tj.restore(tmp_path / "run", seed=1)
    assert bit_equal(made.variables, variables) and made.tokenizer is None
    assert "state" not in made.config and not (folder / "step.stablehlo").exists()
    x = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 1)).astype(np.uint8)
    program = jax.export.deserialize(bytearray((folder / "forward.stablehlo").read_bytes()))
    from safetensors.numpy import load_file

    y = program.call(load_file(folder / "model.safetensors"), x)
    np.testing.assert_allclose(y, tj.forward(net, variables, x)[0], rtol=0, atol=1e-5)
    refused = launched("generate.py", folder)
    assert refused.returncode == 2 and "holds no language model" in refused.stderr
