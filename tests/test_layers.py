"""Imports go down only, nothing heavy is imported at the top, and files and functions stay
small.
"""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAYERS = [
    {"errors", "version"},
    {
        "similarity",
        "trees",
        "manifest",
        "cost",
        "checks",
        "judging",
        "lapack",
        "solvers",
        "packaged",
        "interrupts",
        "finite",
        "paths",
        "devices",
        "orbax_files",
    },
    {"nets", "schedules"},
    {"objectives", "data", "balance", "order", "feeds", "plan"},
    {
        "state",
        "program",
        "rules",
        "chunk",
        "divergence",
        "frozen",
        "edits",
        "running",
        "train",
        "evaluate",
        "checkpoints",
        "records",
        "arms",
    },
    {"methods", "tasks", "config", "report"},
    {"experiment"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted((ROOT / "theseus_jax").rglob("*.py"))
KERNELS = sorted((ROOT / "pallas_kernels").rglob("*.py"))


def _imports(path, top_level_only):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "theseus_jax"
                else [node.module]
            )


def test_every_module_stands_in_a_layer_and_imports_none_above_it():
    wrong = []
    for path in FILES:
        own = path.relative_to(ROOT / "theseus_jax").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in _imports(path, top_level_only=False):
            parts = name.split(".")
            if parts[0] == "theseus_jax" and len(parts) > 1 and LEVEL[parts[1]] > LEVEL[own]:
                wrong.append(f"{path.name} imports {name}")
            if parts[0] == "pallas_kernels" and LEVEL[own] == 0:
                wrong.append(f"{path.name} imports {name}")
    for path in KERNELS:
        outside = {name.split(".")[0] for name in _imports(path, top_level_only=False)} - set(
            sys.stdlib_module_names
        )
        wrong += [
            f"{path.name} imports {name}"
            for name in outside - {"jax", "jaxlib", "numpy", "pallas_kernels", "__future__"}
        ]
    assert not wrong


def test_rooms_inside_a_layer_keep_to_themselves():
    """Blocks know no architecture, and no method does but GLAI, whose networks those are."""
    wrong = []
    for path in FILES:
        room = path.relative_to(ROOT / "theseus_jax").parts[:2]
        own = room[0] == "methods" and room[1] != "glai" or room == ("nets", "blocks")
        names = _imports(path, top_level_only=False) if own else ()
        wrong += [
            f"{path.name} imports {n}" for n in names if n.startswith("theseus_jax.nets.models")
        ]
    assert not wrong


def test_what_the_package_imports_at_once_is_jax_flax_optax_orbax_and_numpy():
    allowed = set(sys.stdlib_module_names) | {
        "jax",
        "flax",
        "optax",
        "orbax",
        "numpy",
        "theseus_jax",
        "pallas_kernels",
        "__future__",
    }
    found = {name.split(".")[0] for path in FILES for name in _imports(path, top_level_only=True)}
    assert found <= allowed, found - allowed


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, theseus_jax; heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib',"
        " 'transformers', 'torch', 'ml_collections', 'tokenizers', 'tqdm', 'safetensors', 'PIL',"
        " 'scipy.stats', 'sklearn'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_and_functions_stay_small():
    large = []
    for path in [
        *FILES,
        *KERNELS,
        *sorted((ROOT / "launch").glob("*.py")),
        *sorted((ROOT / "configs").glob("*.py")),
    ]:
        text = path.read_text()
        if len(text.splitlines()) > 300:
            large.append(f"{path.name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60:
                large.append(
                    f"{path.name}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
                )
    assert not large
