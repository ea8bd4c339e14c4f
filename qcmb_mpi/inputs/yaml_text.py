"""YAML text to plain data.

Rules of this file
------------------
1. Imported for YAML only: PyYAML is slow to import.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs.documents import MAX_DEPTH, too_deep

MAX_YAML_NODES = 2_000_000
_EXPONENT_FLOAT = re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$")
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Safe YAML in which ``1e-8`` is a number, as YAML 1.2 has it and PyYAML has not."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT_FLOAT, list("-+0123456789"))


def parse(text: str, name: str) -> Any:
    """Parse YAML text.

    Parameters
    ----------
    text : str
    name : str
        Of the file, for errors.

    Returns
    -------
    object
        Plain data.

    Raises
    ------
    InputError
        It is no YAML, empty, nested too deeply, has a key twice, or grows without bound.
    """
    try:
        if _yaml_depth(text) > MAX_DEPTH:
            raise too_deep(name)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise InputError(name, "is empty")
        if _expanded_size(node, name, {}) > MAX_YAML_NODES:
            raise InputError(name, f"its references expand to over {MAX_YAML_NODES} values")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context
        raise InputError(name, f"is not valid YAML{where}: {problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(name, f"is not valid YAML: {error}") from None


def _yaml_depth(text: str) -> int:
    """Nesting of collections, from the event stream (which needs no recursion)."""
    depth = deepest = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                break
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return deepest


def _expanded_size(node: yaml.Node, name: str, sizes: dict[int, int]) -> int:
    """Count the values once aliases are written out; refuse cycles and keys written twice."""
    known = sizes.get(id(node))
    if known is not None:
        if known < 0:
            raise InputError(name, "an anchor contains a reference to itself")
        return known
    sizes[id(node)] = -1
    size = 1
    if isinstance(node, yaml.MappingNode):
        _refuse_repeated_keys(node, name)
        size += sum(_expanded_size(item, name, sizes) for pair in node.value for item in pair)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_expanded_size(item, name, sizes) for item in node.value)
    sizes[id(node)] = size
    return size


def _refuse_repeated_keys(node: yaml.MappingNode, name: str) -> None:
    found: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(name, f"line {key.start_mark.line + 1}: a field name must be text")
        if (key.tag, key.value) in found:
            where = f"line {key.start_mark.line + 1}"
            raise InputError(name, f"{where}: the key {key.value!r} appears twice in one object")
        found.add((key.tag, key.value))
