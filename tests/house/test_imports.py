"""The rooms of the package: imports run downwards, without circles, and every name says what it holds."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from tools import ROOT

#: What each room may import beside itself; all may import the extension.
BELOW = {
    "support": set(),
    "model": {"support"},
    "data": {"support", "model"},
    "view": {"support", "model", "sampling"},
    "sampling": {"support", "model"},
    "inverse": {"support", "model", "sampling"},
    "files": {"support", "model", "sampling"},
    "training": {"support", "model", "sampling", "data", "view", "files"},
    "cli": {"support", "model", "sampling", "inverse", "data", "view", "files", "training"},
}
MOST_MODULES = 10
#: What a folder is entered by, in both languages.
DOORS = {"__init__.py", "mod.rs", "lib.rs"}
#: Modules of the course's library, under its names: they hand on what stands in the rooms.
ALIASES = {"operators", "utilities", "nn", "nn.diffusion"}
UNDERSCORED = {"__init__", "__main__", "_native"}


class House:
    """A package's modules by dotted name, and what each of them imports of it."""

    def __init__(self, folder):
        self.name = folder.name
        self.files = {self._dotted(path, folder): path for path in sorted(folder.rglob("*.py"))}
        self.trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in self.files.items()}
        self.imports = {name: self._imports_of(name) for name in self.files}

    @staticmethod
    def _dotted(path, folder):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports_of(self, name):
        """Wherever they stand: in functions and under TYPE_CHECKING too."""
        found = set()
        for node in ast.walk(self.trees[name]):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                source = self._absolute(name, node)
                inside = {f"{source}.{alias.name}" for alias in node.names}
                # a name is a module, or something in the module that it is imported from
                found |= inside & (self.files.keys() | {f"{self.name}._native"})
                if not inside <= found:
                    found.add(source)
        return {found_name for found_name in found if found_name.partition(".")[0] == self.name}

    def _absolute(self, name, node):
        if node.level == 0:
            return node.module
        package = name if self.files[name].stem == "__init__" else name.rpartition(".")[0]
        for _ in range(node.level - 1):
            package = package.rpartition(".")[0]
        return f"{package}.{node.module}" if node.module else package

    def room(self, name):
        """The room that a module is in; what lies beside the rooms is in none."""
        parts = name.split(".")
        return parts[1] if len(parts) > 1 and parts[1] in BELOW else None

    def upward(self):
        """What a room imports and must not: a higher room, or the whole package."""
        for name, imports in self.imports.items():
            room = self.room(name)
            for target in sorted(imports) if room else ():
                if target == f"{self.name}._native" or self.room(target) == room:
                    continue
                if self.room(target) not in BELOW[room]:
                    yield f"{name} imports {target}"

    def circles(self):
        done = set()
        for start in self.imports:
            yield from self._circles_from(start, [], done)

    def _circles_from(self, name, path, done):
        if name in path:
            yield " -> ".join([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(self.imports.get(name, ())):
                yield from self._circles_from(target, [*path, name], done)
            done.add(name)

    def outside(self):
        """Modules in no room, but for the two doors and the aliases."""
        for name, path in self.files.items():
            doors = {self.name, f"{self.name}.__main__", *(f"{self.name}.{alias}" for alias in ALIASES)}
            if self.room(name) is None and name not in doors:
                yield path.relative_to(path.parents[name.count(".")]).as_posix()

    def crowded(self):
        yield from crowded(self.files.values())

    def underscored(self):
        for name, path in self.files.items():
            if path.stem.startswith("_") and path.stem not in UNDERSCORED:
                yield name

    def defining_doors(self):
        """What an `__init__` does beside handing names on."""
        for name, path in self.files.items():
            if path.stem != "__init__":
                continue
            for node in self.trees[name].body:
                if not isinstance(node, (ast.Import, ast.ImportFrom)) and not _hands_on(node):
                    yield f"{name}: {ast.unparse(node).splitlines()[0]}"


def crowded(paths):
    """Folders with too many modules, not counting their doors."""
    counts = Counter(path.parent for path in paths if path.name not in DOORS)
    for folder, count in sorted(counts.items()):
        if count > MOST_MODULES:
            yield f"{folder.name} has {count} modules"


def _hands_on(node):
    """A docstring, `__all__`, `__version__`, or the check that must come before the extension is loaded."""
    if isinstance(node, ast.Assign):
        return all(isinstance(t, ast.Name) and t.id in ("__all__", "__version__") for t in node.targets)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or ast.unparse(node) == "check_torch()"
    return False


@pytest.mark.parametrize("part", ["src/kernels", "src/core", "src/bindings", "benchmarks"])
def test_no_folder_outside_the_package_is_crowded(part):
    modules = [path for path in (ROOT / part).rglob("*.*") if path.suffix in (".py", ".rs")]
    assert len(modules) > 10 and not list(crowded(modules))


RULES = ["upward", "circles", "outside", "crowded", "underscored", "defining_doors"]


@pytest.fixture(scope="module")
def house(rd):
    return House(Path(rd.__file__).parent)


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rules_of_the_house(house, rule):
    assert len(house.files) > 30 and not list(getattr(house, rule)())


MADE_UP = {
    "upward": {"support/a.py": "def f():\n    from house.model import b\n", "model/b.py": ""},
    "upward, seen by type checkers only": {
        "view/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.data.b\n",
        "data/b.py": "",
    },
    "upward, relative": {"support/a.py": "from ..model.b import f\n", "model/b.py": "def f(): ...\n"},
    "upward, to the whole package": {"support/a.py": "import house\n"},
    "circles": {"data/a.py": "from house.data import b\n", "data/b.py": "from house.data.a import f\n"},
    "circles, through a door": {
        "data/__init__.py": "from house.data.a import f\n",
        "data/a.py": "from house.data import g\n",
    },
    "outside": {"a.py": ""},
    "crowded": {f"data/a{number}.py": "" for number in range(11)},
    "underscored": {"data/_a.py": ""},
    "defining_doors": {"data/__init__.py": "def f(): ...\n"},
}


@pytest.mark.parametrize("case", MADE_UP)
def test_a_house_that_breaks_a_rule_is_found_out(tmp_path, case):
    for name, text in {"__init__.py": "", **MADE_UP[case]}.items():
        (tmp_path / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "house" / name).write_text(text)
    built = House(tmp_path / "house")
    assert [rule for rule in RULES if list(getattr(built, rule)())] == [case.partition(",")[0]]


def test_a_house_in_order_is_left_in_peace(tmp_path):
    for name, text in {
        "__init__.py": "'''Doc.'''\nfrom house.model import f\n__all__ = ['f']\n",
        "_native.pyi": "",
        "model/__init__.py": "from house.model.a import f\n",
        "model/a.py": "from house import _native\nfrom house.support.b import g\nimport torch\n",
        "support/b.py": "def g(): ...\n",
    }.items():
        (tmp_path / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "house" / name).write_text(text)
    built = House(tmp_path / "house")
    assert not [found for rule in RULES for found in getattr(built, rule)()]
