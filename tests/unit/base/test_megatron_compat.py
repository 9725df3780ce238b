"""Private names of megatron-core and torch stand in one file, and are what it takes them for."""

import ast
import importlib
import inspect
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.optimizer import ChainedOptimizer

from modellink_rm.base.megatron_compat import single_optimizers

PACKAGE = Path(__file__).parents[3] / "modellink_rm"
COMPAT = PACKAGE / "base" / "megatron_compat.py"

_OPTIMIZER = "megatron.core.optimizer.distrib_optimizer:DistributedOptimizer"
# Where each name stands, and its parameters; None for what is not called.
SIGNATURES = {
    "megatron.core.tensor_parallel.random:_get_cuda_rng_state": ("device", "clone", "graph_safe"),
    "megatron.core.tensor_parallel.random:_set_cuda_rng_state": ("new_state", "device", "graph_safe"),
    "megatron.core.tensor_parallel.random:_get_all_rng_states": (),
    "megatron.core.tensor_parallel.random:_set_all_rng_states": (
        "cpu_rng_state",
        "cuda_rng_state",
        "cuda_rng_state_tracker",
    ),
    f"{_OPTIMIZER}._init_optimizer_states_with_dummy_values": ("self",),
    "torch:_dynamo": None,
    "torch:_C": None,
    "torch.cuda.memory:_set_allocator_settings": ("env",),
    "megatron.core.tensor_parallel.layers:ColumnParallelLinear._forward_impl": (
        "self",
        "input",
        "weight",
        "args",
        "kwargs",
    ),
    "torch:_foreach_mul_": None,
    "megatron.core.tensor_parallel.layers:_grad_accum_fusion_available": None,
    "megatron.core.pipeline_parallel.p2p_communication:P2PCommunicator._communicate_shapes": (
        "self",
        "tensor_send_next",
        "tensor_send_prev",
        "recv_prev",
        "recv_next",
    ),
    "megatron.core.transformer.transformer_layer:TransformerLayer._forward_mlp": (
        "self",
        "hidden_states",
        "inference_context",
        "padding_mask",
    ),
}
# Of torch's operators the schema says what they take and give.
OPERATORS = {
    "_scaled_dot_product_flash_attention_for_cpu": (
        ("query", "key", "value", "dropout_p", "is_causal", "attn_mask", "scale"),
        ("output", "logsumexp"),
    ),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (
        (
            *("grad_out", "query", "key", "value", "out", "logsumexp"),
            *("dropout_p", "is_causal", "attn_mask", "scale"),
        ),
        ("grad_query", "grad_key", "grad_value"),
    ),
    "_linear_pointwise": (("X", "W", "B", "attr", "scalars", "algorithm"), ("Y",)),
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def overridden_names(path: Path) -> set[str]:
    """Names with an underscore of methods of classes that extend another one."""
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    methods = [
        method.name
        for one in classes
        if one.bases
        for method in one.body
        if isinstance(method, ast.FunctionDef)
    ]
    return {name for name in methods if name.startswith("_") and not name.startswith("__")}


def private_names(path: Path) -> set[str]:
    """Names with an underscore that a file uses and does not define."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    # os._exit is documented: the underscore is its name.
    used = {
        node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node) != "os._exit"
    }
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) == "self"
    }
    own |= {ast.unparse(node.target) for node in nodes if isinstance(node, ast.AnnAssign)}
    imported = {
        part
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module
        for part in (*node.module.split("."), *(alias.name for alias in node.names))
    }
    return {name for name in (used - own) | imported if is_private(name)}


def imports_the_engine(path: Path) -> bool:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return any(name.split(".")[0] in ("torch", "megatron") for name in names)


def test_no_other_file_uses_a_private_name() -> None:
    found = {
        str(path.relative_to(PACKAGE)): names
        for path in PACKAGE.rglob("*.py")
        if path != COMPAT and imports_the_engine(path) and (names := private_names(path))
    }
    assert found == {}


def test_every_private_name_is_checked_here() -> None:
    checked = {place.rsplit(":", 1)[1].rsplit(".", 1)[-1] for place in SIGNATURES}
    assert private_names(COMPAT) | overridden_names(COMPAT) == checked | set(OPERATORS)


@pytest.mark.parametrize("place", SIGNATURES)
def test_private_name_of_the_engine_takes_what_it_is_given(place: str) -> None:
    module, path = place.split(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    expected = SIGNATURES[place]
    if expected is not None:
        assert tuple(inspect.signature(found).parameters) == expected


@pytest.mark.parametrize("name", OPERATORS)
def test_private_operator_of_torch_has_its_schema(name: str) -> None:
    library = torch.ops.aten if hasattr(torch.ops.aten, name) else torch.ops.mkldnn
    schema = getattr(library, name).default._schema
    takes, gives = OPERATORS[name]
    assert tuple(argument.name for argument in schema.arguments) == takes
    assert tuple(value.name for value in schema.returns) == gives


def test_importing_the_file_imports_no_engine() -> None:
    tree = ast.parse(COMPAT.read_text())
    at_start = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {ast.unparse(node).split()[1].split(".")[0] for node in at_start} == {
        "warnings",
        "contextlib",
        "types",
        "collections",
        "typing",
    }


def test_single_optimizers_are_those_of_a_chain_or_itself() -> None:
    chain = types.SimpleNamespace(chained_optimizers=["a", "b"])
    assert single_optimizers(chain) == ["a", "b"]
    assert single_optimizers("a") == ["a"]


def test_only_one_file_asks_for_the_optimizers_of_a_chain() -> None:
    found = [path for path in PACKAGE.rglob("*.py") if "chained_optimizers" in path.read_text()]
    assert found == [COMPAT]
    assert "self.chained_optimizers = " in inspect.getsource(ChainedOptimizer.__init__)
