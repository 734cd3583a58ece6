"""The floors of the house: who imports whom, read from the files without running them."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src"
FLOORS = {
    "video": 1,
    "atomic_io": 1,
    "masks": 1,
    "network": 2,
    "memory": 2,
    "visualization": 2,
    "config": 3,
    "inference": 3,
    "data": 4,
    "evaluation": 5,
    "training": 6,
    "dataset_check": 6,
    "sweeps": 7,
    "analysis": 8,
    "demo": 9,
    "runs": 9,
    "cli": 10,
    "hydra_plugins": 10,
    "train": 10,
    "evaluate": 10,
}
STEPS = {("masks", "video"), ("masks", "atomic_io"), ("network", "memory")}
"""Rooms on one floor, the first a step above the second.

Masks need VOID and are written atomically; published networks bring their authors' memory policy."""
HEAVY = {
    "torch",
    "torchvision",
    "lightning",
    "pytorch_lightning",
    "wandb",
    "albumentations",
    "cv2",
    "av",
    "numpy",
}
ENTRY_POINTS = [ROOT / "train.py", ROOT / "evaluate.py"]


def module_name(path: Path) -> str:
    if path in ENTRY_POINTS:
        return path.stem
    parts = path.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def files() -> dict[str, Path]:
    """Module name -> file, of the package and the entry points."""
    return {module_name(path): path for path in [*SOURCES.rglob("*.py"), *filter(Path.exists, ENTRY_POINTS)]}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(files()[module].read_text(encoding="utf-8"))


def imported(nodes: list[ast.AST], package: str) -> set[str]:
    """Names of the modules that are imported, those below a package by their full name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """Everything the module imports, inside functions too."""
    package = module if files()[module].name == "__init__.py" else module.rpartition(".")[0]
    return frozenset(imported(list(ast.walk(tree(module))), package))


@cache
def neighbors(module: str) -> frozenset[str]:
    """The files of ours that the module imports."""
    return frozenset(name for name in imports(module) if name in files()) - {module, "stm"}


def at_import_time(nodes: list[ast.stmt]) -> list[ast.AST]:
    """Statements that run when the file is imported: no function's body, nothing for type checkers alone."""
    result: list[ast.AST] = []
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            result += at_import_time(node.orelse)
            continue
        result.append(node)
        for _, field in ast.iter_fields(node):
            if isinstance(field, list) and field and isinstance(field[0], ast.stmt | ast.ExceptHandler):
                result += at_import_time(field)
    return result


def room(module: str) -> str:
    """The file or folder below `stm` that the module belongs to, or the entry point."""
    return module.removeprefix("stm.").split(".")[0]


PACKAGE = sorted(files())


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in PACKAGE} - {"stm"} <= FLOORS.keys()


def test_imports_come_from_floors_below() -> None:
    assert not imports_at_once("stm") & files().keys(), "the package itself imports nothing of ours at once"
    for module in PACKAGE:
        for other in neighbors(module) if module != "stm" else ():
            if room(other) != room(module) and (room(module), room(other)) not in STEPS:
                assert FLOORS[room(other)] < FLOORS[room(module)], f"{module} imports {other}"


def test_no_files_import_each_other() -> None:
    """Neither directly nor around a corner."""

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in neighbors(module):
                walk(other, (*path, module))
            done.add(module)

    done: set[str] = set()
    for module in PACKAGE:
        walk(module, ())


def test_only_runs_build_from_configuration() -> None:
    for module in PACKAGE:
        names = {node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)}
        names |= {name.rpartition(".")[2] for name in imports(module)}
        if room(module) != "runs":
            built = names & {"instantiate", "get_class", "get_method", "get_object"}
            assert not built, f"{module} uses {built}"


@pytest.mark.parametrize(
    ("packages", "rooms"),
    [
        ("hydra omegaconf wandb", "network data memory inference visualization video masks"),
        ("lightning pytorch_lightning", "network memory inference visualization video masks evaluation"),
    ],
)
def test_outside_packages_stay_in_their_rooms(packages: str, rooms: str) -> None:
    for module in PACKAGE:
        outside = {name.split(".")[0] for name in imports(module)}
        assert module == "stm.data.augment" or "albumentations" not in outside, module
        assert room(module) not in rooms.split() or not outside & set(packages.split()), module
        if room(module) == "data" and module != "stm.data.datamodule":
            assert not outside & {"lightning", "pytorch_lightning"}, module


def imports_at_once(module: str) -> set[str]:
    return imported(at_import_time(tree(module).body), module)


@pytest.mark.parametrize("module", ["stm", "stm.cli.main", "stm.config.overrides", "train", "evaluate"])
def test_help_waits_for_nothing_heavy(module: str) -> None:
    assert module in files()
    seen, todo = set(), [module]
    while todo:
        current = todo.pop()
        seen.add(current)
        heavy = {name.split(".")[0] for name in imports_at_once(current)} & HEAVY
        assert not heavy, f"{module} imports {current}, which imports {sorted(heavy)}"
        todo += [name for name in imports_at_once(current) if name in files() and name not in seen]


def test_importing_stm_is_enough() -> None:
    import stm

    assert stm.memory.MemoryPolicy(every=3).every == 3
    assert stm.network.STM is importlib.import_module("stm.network").STM
    with pytest.raises(AttributeError, match="'stm' has no attribute 'memroy'"):
        _ = stm.memroy


def test_architecture_page_lists_the_floors() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.M)
    rooms = {
        name.strip("`/").removesuffix(".py"): int(floor)
        for floor, names in rows
        for name in names.split(", ")
    }
    assert rooms == {name: floor for name, floor in FLOORS.items() if name != "hydra_plugins"}


def test_names_of_files_are_unique() -> None:
    """But for the two entry points, one of which calls the other's namesake in `evaluation`."""
    names = [path.name for path in SOURCES.rglob("*.py") if path.name not in ("__init__.py", "evaluate.py")]
    assert sorted(names) == sorted(set(names))


def test_files_are_short() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in files().items()}
    assert not {module: length for module, length in lengths.items() if length > 300}
