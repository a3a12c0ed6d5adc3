"""What stands at the top of the package: libraries, errors, lazy imports, the table of operators."""

from __future__ import annotations

import importlib

import pytest

import dcn_deploy
from dcn_deploy import errors
from dcn_deploy._lazy import require
from dcn_deploy._libraries import LIBRARIES, LIBRARY_DIR_VARIABLE
from dcn_deploy.schema import (
    BY_STANDARD_OP_TYPE,
    BY_TORCH_NAME,
    DEFORM_CONV2D,
    DEFORM_ROI_POOL2D,
    DOMAIN,
    OPERATORS,
)


def test_version(checkout):
    assert dcn_deploy.__version__ == (checkout / "VERSION").read_text(encoding="utf-8").strip()


def test_library_path(library):
    assert library.is_file()
    assert library.name == LIBRARIES["onnxruntime"].filename


def test_a_folder_of_ones_own_goes_first(tmp_path, monkeypatch):
    mine = tmp_path / LIBRARIES["tensorrt"].filename
    mine.write_bytes(b"")
    monkeypatch.setenv(LIBRARY_DIR_VARIABLE, str(tmp_path))
    assert dcn_deploy.library_path("tensorrt") == mine


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("onnxruntime", "needs a C.*DCN_DEPLOY_ONNXRUNTIME=ON"),
        ("onnxruntime_cuda", "needs nvcc.*DCN_DEPLOY_CUDA=ON"),
        ("tensorrt", "needs nvcc.*headers of TensorRT.*DCN_DEPLOY_TENSORRT=ON"),
        ("tensorrt_register", "built with the library 'tensorrt'.*DCN_DEPLOY_TENSORRT=ON"),
    ],
)
def test_a_library_that_is_not_there_is_named_with_the_remedy(kind, remedy, tmp_path, monkeypatch):
    monkeypatch.setattr("dcn_deploy._libraries._search_path", lambda: [tmp_path])
    with pytest.raises(errors.LibraryNotBuiltError, match=f"{LIBRARIES[kind].filename}.*looked in .*{remedy}.*doctor"):
        dcn_deploy.library_path(kind)


def test_an_unknown_library():
    with pytest.raises(errors.InvalidArgumentError, match="expected one of onnxruntime, onnxruntime_cuda, tensorrt"):
        dcn_deploy.library_path("ort")


def test_require_says_what_to_install():
    with pytest.raises(errors.MissingDependencyError, match=r"charts needs the package 'no_such_package'.*pip install"):
        require("no_such_package.part", "charts")
    assert require("json", "anything").dumps([]) == "[]"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InvalidArgumentError, ValueError),
        (errors.DtypeError, TypeError),
        (errors.MissingDependencyError, ImportError),
        (errors.LibraryNotBuiltError, FileNotFoundError),
        (errors.UnsupportedError, NotImplementedError),
        (errors.BackendError, RuntimeError),
    ],
)
def test_errors_are_also_what_callers_would_look_for(error, builtin):
    assert issubclass(error, errors.DcnDeployError)
    assert issubclass(error, builtin)


def test_describe():
    text = errors.describe("stride", expected="at least 1", actual="0", remedy="Use 1.")
    assert text == "stride: expected at least 1, got 0. Use 1."


@pytest.mark.parametrize("schema", BY_STANDARD_OP_TYPE.values(), ids=lambda schema: schema.op_type)
def test_the_table_agrees_with_the_onnx_standard(schema):
    """Names, order and optionality: ``plugin`` and ``standard`` differ in the node's name alone."""
    import onnx.defs

    standard = onnx.defs.get_schema(schema.standard.op_type, schema.standard.since_opset)
    assert [x.name for x in standard.inputs] == [x.name for x in schema.inputs]
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    assert [x.option == optional for x in standard.inputs] == [x.optional for x in schema.inputs]
    assert sorted(standard.attributes) == sorted(attribute.name for attribute in schema.attributes)
    for attribute in schema.attributes:
        assert not standard.attributes[attribute.name].required
        if attribute.kind == "int":
            assert standard.attributes[attribute.name].default_value.i == attribute.default
    newest = onnx.defs.get_schema(schema.standard.op_type, schema.standard.bfloat16_since_opset)
    types = {t for constraint in newest.type_constraints for t in constraint.allowed_type_strs}
    assert "tensor(bfloat16)" in types


def test_the_table_agrees_with_the_torch_operators():
    import torch

    import dcn_deploy.ops  # noqa: F401  (registers them)

    for name, schema in BY_TORCH_NAME.items():
        namespace, operator = name.split("::")
        arguments = getattr(getattr(torch.ops, namespace), operator).default._schema.arguments
        tensors = [a for a in arguments if "Tensor" in str(a.type)]
        assert len(tensors) == len(schema.inputs)
        assert [str(a.type).startswith("Optional") for a in tensors] == [x.optional for x in schema.inputs]
        assert namespace == DOMAIN
        assert schema.op_type in OPERATORS
        # Each other argument is an attribute; the kernel's shape is that of the weight in PyTorch.
        attributes = [attribute.name for attribute in schema.attributes if attribute.name != "kernel_shape"]
        assert len(arguments) - len(tensors) == len(attributes)
        with pytest.raises(KeyError):
            schema.attribute("padding")
    assert DEFORM_CONV2D.attribute("pads").length == 4
    assert DEFORM_ROI_POOL2D.attribute("output_size").required


PACKAGES = ["engine", "export", "models", "nn", "ops", "profiling", "runtime", "validation"]


@pytest.mark.parametrize("name", ["", *PACKAGES])
def test_a_star_import_brings_what_the_package_has(name):
    package = "dcn_deploy" + (f".{name}" if name else "")
    names: dict[str, object] = {}
    exec(f"from {package} import *", names)
    del names["__builtins__"]
    module = importlib.import_module(package)
    assert names
    assert {key: getattr(module, key) for key in names} == names
    assert set(names) <= set(dir(module))
    if name:
        # Public names, and no helper that the package has imported for itself.
        assert set(names) >= set(module._DEFINED_IN)
        assert "lazy_attributes" not in names
    else:
        assert set(names) == {*PACKAGES, "errors", "cmake_path", "library_path"}


def test_every_name_that_dir_tells_is_there():
    for name in dir(dcn_deploy):
        getattr(dcn_deploy, name)
