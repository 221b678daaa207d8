"""Hooks of the documentation site: pages that are generated from the code, and links that lead outside of docs/.

`reference/recipe.md` comes from the schema of recipes, `reference/command-line.md` from the command line's own help.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from posttrain.configs import schema
from posttrain.configs.loading.editors import json_schema

REPOSITORY = "https://github.com/posttrain/posttrain/blob/main"
KINDS = ("Curate", "Sample", "Sft", "Grpo", "Distill", "Evaluate")
GENERATED = ("reference/recipe.md", "reference/command-line.md")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for path, text in zip(GENERATED, (recipe_page(), command_page()), strict=True):
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **more: Any) -> str:
    """Point links to files of the repository that are not part of the site at the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def outside(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", folder, match[1]))
        return match[0] if path.startswith("docs/") else f"]({REPOSITORY}/{path}"

    return re.sub(r"\]\((\.\./[^)#\s]*)", outside, markdown)


def on_post_page(output: str, page: Any, **more: Any) -> str:
    """Search from disk needs a stand-in for workers: the site's own, not the one that the theme would fetch."""
    return _own_worker(output, posixpath.dirname(page.file.dest_uri))


def on_post_template(output_content: str, template_name: str, **more: Any) -> str:
    """Do the same for pages without a document, such as 404.html."""
    return _own_worker(output_content, posixpath.dirname(template_name))


def _own_worker(html: str, folder: str) -> str:
    own = posixpath.relpath("javascripts/worker-from-disk.js", folder or ".")
    return re.sub(r'src="https://[^"]*/iframe-worker/shim"', f'src="{own}"', html)


def recipe_page() -> str:
    """Every field of a recipe, by node."""
    nodes = {name: node for name, node in schema_nodes().items() if name != "Recipe"}
    kinds = [name for name in KINDS if name in nodes]
    rest = sorted(name for name in nodes if name not in kinds)
    lines = [
        "# Recipe",
        "",
        "Every field of a recipe, generated from the schema that the loader uses. `posttrain schema` prints the same "
        "as a JSON schema for your editor.",
        "",
        "Any value can be a reference to an environment variable, `${NAME}` or `${NAME:-default}`. Where a mapping has "
        "one main field, the value alone is enough: `model: base` means `model: {from: base}`.",
        "",
        *_node("Recipe", schema_nodes()["Recipe"], title="The file"),
        "## Stages",
        "",
        *(line for name in kinds for line in _node(name, nodes[name], level=3, title=_kind(nodes[name]))),
        "## Parts",
        "",
        *(line for name in rest for line in _node(name, nodes[name], level=3)),
    ]
    return "\n".join(lines) + "\n"


def schema_nodes() -> dict[str, Any]:
    """The nodes of the JSON schema, without those that only describe changes of another recipe."""
    return {name: node for name, node in json_schema()["$defs"].items() if not name.endswith("Change")}


def _kind(node: Any) -> str:
    return str(node["properties"]["kind"]["const"])


def _node(name: str, node: Any, *, level: int = 2, title: str = "") -> Iterator[str]:
    model = getattr(schema, name, None)
    about = inspect.getdoc(model) if model is not None and model.__doc__ else node.get("description", "")
    yield f"{'#' * level} {title or name} {{#{name.lower()}}}"
    yield ""
    if about:
        yield _text(str(about).partition("\n\n")[0])
        yield ""
    yield "| field | type | default | |"
    yield "| --- | --- | --- | --- |"
    required = node.get("required", ())
    for field, value in node.get("properties", {}).items():
        default = "required" if field in required else f"`{_json(value['default'])}`" if "default" in value else ""
        yield f"| `{field}` | {_type(value)} | {_cell(default)} | {_cell(value.get('description', ''))} |"
    yield ""


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else "{...}" if isinstance(value, dict) else "[...]"


def _type(value: Any) -> str:
    """The type of a field, with links to other nodes. References to the environment, which all allow, are left out."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"])
    if "anyOf" in value or "oneOf" in value:
        parts = [part for part in value.get("anyOf", value.get("oneOf")) if part.get("pattern") != r"^\$\{[^}]*\}$"]
        named = any("$ref" in part or "items" in part for part in parts)
        types = [_type(p) for p in parts if not (named and p.get("type") == "string") and p.get("type") != "null"]
        return " or ".join(dict.fromkeys(types)) or "any"
    if value.get("type") == "array":
        if "prefixItems" in value:
            return "[" + ", ".join(_type(item) for item in value["prefixItems"]) + "]"
        return f"list of {_type(value.get('items', {}))}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"mapping to {_type(inner)}" if isinstance(inner, dict) and inner else "mapping"
    names = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
    return names.get(str(value.get("type")), "any") + _bounds(value)


def _bounds(value: Any) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return "".join(f" {sign} {value[name]:g}" for name, sign in signs.items() if name in value)


def command_page() -> str:
    """The help of every command."""
    import typer.main

    from posttrain.pipelines.commands.cli import app

    group = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "Exit codes: 0 done; 1 failed, or a threshold was missed; 2 wrong input, nothing was started; 143 stopped by a "
        "signal after the state was saved. `-h` prints the help of any command.",
        "",
        *_commands(group, "posttrain"),
    ]
    return "\n".join(lines) + "\n"


def _commands(group: Any, name: str) -> Iterator[str]:
    for key, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {key}")
        else:
            yield from _command(command, f"{name} {key}")


def _command(command: Any, name: str) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    yield _text(inspect.cleandoc(command.help or ""))
    yield ""
    if command.epilog:
        yield f"```\n{command.epilog.removeprefix('Example: ')}\n```"
        yield ""
    yield "| argument or option | default | |"
    yield "| --- | --- | --- |"
    for parameter in command.params:
        if parameter.name == "help":
            continue
        is_option = parameter.opts[0].startswith("-")
        shown = ", ".join(parameter.opts) if is_option else parameter.metavar or parameter.name.upper()
        plain = isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool)
        default = "required" if parameter.required else f"`{parameter.default}`" if plain else ""
        yield f"| `{_cell(shown)}` | {default} | {_cell(parameter.help or '')} |"
    yield ""


def _text(text: str) -> str:
    return text.replace("<", "&lt;")


def _cell(text: str) -> str:
    return _text(" ".join(text.split())).replace("|", "\\|")
