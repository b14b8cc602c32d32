"""Print every import of the Python files in the JSON list on standard input.

One JSON object per line: path, line, the dotted name, the names taken from it, whether the import
runs with the module itself (at once) or later, and the syntax error where there is one.
"""

import ast
import json
import sys

Statement = ast.Import | ast.ImportFrom | ast.Call


class Imports(ast.NodeVisitor):
    """Collects the imports of one module, those inside functions included."""

    def __init__(self, path: str, package: list[str]) -> None:
        self.path = path
        self.package = package
        self.depth = 0
        self.checking = 0

    def report(self, node: Statement, module: str, names: list[str]) -> None:
        """Print one import."""
        at_once = not self.depth and not self.checking
        record = {"path": self.path, "line": node.lineno, "module": module, "names": names}
        print(json.dumps({**record, "at_once": at_once}))

    def visit_FunctionDef(self, node: ast.AST) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
        checking = name == "TYPE_CHECKING"
        self.checking += checking
        for child in node.body:
            self.visit(child)
        self.checking -= checking
        for child in node.orelse:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.report(node, alias.name, [])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self.package[: len(self.package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        self.report(node, module, [alias.name for alias in node.names])

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        argument = node.args[0] if node.args else None
        if name in ("import_module", "__import__") and isinstance(argument, ast.Constant):
            self.report(node, str(argument.value), [])
        self.generic_visit(node)


for entry in json.load(sys.stdin):
    try:
        tree = ast.parse(entry["text"])
    except SyntaxError as error:
        print(json.dumps({"path": entry["path"], "line": error.lineno or 0, "error": str(error)}))
    else:
        Imports(entry["path"], entry["package"]).visit(tree)
