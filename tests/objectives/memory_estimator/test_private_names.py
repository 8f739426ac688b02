"""The private names of torch: each is used in one file, and works as that file needs it.

A test that fails here after an update of torch says which file of `tracing/` to look at, before the upper bound on torch in
`pyproject.toml` is raised.
"""

import ast
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from trl.kernels import chunked_logprob

from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.objectives.memory_estimator.events import Category
from tradeoff.objectives.memory_estimator.tracing import cuda_dispatch, optimizers
from tradeoff.objectives.memory_estimator.tracing.fake_tensors import DependsOnData, FakeTensorMode, explained
from tradeoff.objectives.memory_estimator.tracing.language_loss import as_on_a_gpu
from tradeoff.objectives.memory_estimator.tracing.recorder import StorageRecorder

ROOT = Path(__file__).parents[3]
TRACING = "objectives/memory_estimator/tracing"
USED_IN = {
    "torch._C": f"{TRACING}/cuda_dispatch.py",
    "torch.ops.aten._log_softmax": f"{TRACING}/cuda_dispatch.py",
    "torch.ops.aten._softmax": f"{TRACING}/cuda_dispatch.py",
    "torch._foreach_mul_": f"{TRACING}/optimizers.py",
    "torch._foreach_norm": f"{TRACING}/optimizers.py",
    "torch._subclasses": f"{TRACING}/fake_tensors.py",
    "torch.utils._python_dispatch": f"{TRACING}/recorder.py",
    "torch._dynamo": "objectives/trial/compilation.py",
}


def dotted(node):
    """The names of torch at a node of a syntax tree."""
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [ast.unparse(node)] if isinstance(node, ast.Attribute) else []


def private_names(path):
    """The private names of torch in a file, up to their first private part."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for parts in (name.split(".") for name in dotted(node)):
            private = [index for index, part in enumerate(parts) if part.startswith("_") and not part.startswith("__")]
            if parts[0] == "torch" and private:
                yield ".".join(parts[: private[0] + 1])


def test_each_private_name_is_used_in_one_file():
    files = [path for package in ("searchspace", "objectives", "studies") for path in (ROOT / package).rglob("*.py")]
    found = {(name, str(path.relative_to(ROOT))) for path in files for name in private_names(path)}
    assert found == set(USED_IN.items())


def test_fake_tensors_have_shapes_and_no_data():
    with FakeTensorMode():
        tensor = torch.empty(2**20, 2**20) @ torch.empty(2**20, 3)
    assert tensor.shape == (2**20, 3)


@pytest.mark.parametrize("operation", [lambda tensor: tensor.sum().item(), torch.nonzero], ids=["value", "shape"])
def test_what_depends_on_the_data_is_told_apart(operation):
    message = r"the memory of odd models can't be estimated, since aten\.\w+\.default depends on the data"
    with pytest.raises(DependsOnData, match=message), FakeTensorMode(), explained("odd"):
        operation(torch.ones(3))


def test_an_expanded_matrix_is_copied_for_its_product():
    recorder = StorageRecorder(BlasWorkspace(cublas_bytes=0, cublaslt_bytes=0))
    recorder.start("step", Category.ACTIVATIONS)
    with FakeTensorMode(), recorder:
        matrix = torch.ones(8, 4)
        torch.mm(torch.ones(()).expand(16, 8), matrix)
        torch.mm(torch.ones(8, 16).T, matrix)
    assert [event.num_bytes for event in recorder.events if event.category is Category.WORKSPACE] == [0, 16 * 8 * 4]


def test_a_recorder_names_operators_and_their_workspaces_and_sees_the_last_reference_go():
    recorder = StorageRecorder(BlasWorkspace(cublas_bytes=1000, cublaslt_bytes=10))
    recorder.start("step", Category.ACTIVATIONS)
    with FakeTensorMode(), recorder:
        bias, matrix = torch.ones(4), torch.ones(4, 4)
        view = torch.addmm(bias, matrix, matrix)[0]
        del view
    result = next(event for event in recorder.events if event.num_bytes is not None and event.key.endswith("addmm"))
    sizes = [event.num_bytes for event in recorder.events if event.category is Category.WORKSPACE]
    assert (result.num_bytes, sizes) == (64, [1000, 10])
    assert [event.key for event in recorder.events].count(result.key) == 2


def test_every_operator_of_the_autocast_lists_exists():
    names = (cuda_dispatch._FP32 + cuda_dispatch._FP32_RESULT).split()
    assert [name for name in names if cuda_dispatch._operator(name) is None] == []


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("_softmax", ["self", "dim", "half_to_float"]),
        ("_log_softmax", ["self", "dim", "half_to_float"]),
        ("native_dropout", ["input", "p", "train"]),
        (
            "_scaled_dot_product_flash_attention",
            ["query", "key", "value", "dropout_p", "is_causal", "return_debug_mask", "scale"],
        ),
        (
            "_scaled_dot_product_efficient_attention",
            ["query", "key", "value", "attn_bias", "compute_log_sumexp", "dropout_p", "is_causal", "scale"],
        ),
        (
            "_scaled_dot_product_attention_math",
            ["query", "key", "value", "attn_mask", "dropout_p", "is_causal", "dropout_mask", "scale", "enable_gqa"],
        ),
        # Those whose workspaces are computed, from their first arguments.
        ("_scaled_dot_product_flash_attention_backward", ["grad_out", "query", "key"]),
        ("_scaled_dot_product_efficient_attention_backward", ["grad_out_", "query", "key"]),
        ("embedding_dense_backward", ["grad_output", "indices"]),
        ("_foreach_norm", ["self"]),
    ],
)
def test_the_operators_take_the_arguments_that_they_are_given(operator, arguments):
    packet = getattr(torch.ops.aten, operator)
    schema = getattr(packet, packet.overloads()[0])._schema
    assert [argument.name for argument in schema.arguments][: len(arguments)] == arguments


def test_cuda_dispatch_replaces_the_cpus_dispatch_in_its_block_alone():
    half = torch.ones(2, 4, dtype=torch.bfloat16)

    def with_autocast():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return functional.layer_norm(half, (4,)).dtype

    before = with_autocast()
    with cuda_dispatch.cuda_dispatch():
        assert with_autocast() is torch.float32
    assert with_autocast() is before is torch.bfloat16


def test_gradients_are_clipped_as_the_public_function_clips_them():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizers.clip_gradients(gradients, 1.0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_loss_of_trl_has_the_parts_that_are_replaced_and_has_them_back_afterwards():
    names = ("_forward_tile", "_backward_tile", "_addmm_fp32")
    own = [getattr(chunked_logprob, name) for name in names]
    with as_on_a_gpu():
        assert [getattr(chunked_logprob, name)(1) for name in names] == [None] * 3
        chosen = torch.ones(3, 2)[torch.tensor([True, False, False])]
    assert chosen.shape == (3, 2)
    assert [getattr(chunked_logprob, name) for name in names] == own
