"""The operators made known to the ``onnx`` package, so that its checker and shape inference treat them as its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcn_deploy.export.operators import OPERATOR_EXPORTS, int8
from dcn_deploy.export.operators.base import FEATURE_DTYPES, Dim, Dims, NodeView, OperatorExport, schema_problems
from dcn_deploy.schema import OperatorSchema

if TYPE_CHECKING:
    import onnx

_ONNX_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "bfloat16": "tensor(bfloat16)",
    "float64": "tensor(double)",
}
_INT8 = "tensor(int8)"
_ATTRIBUTE_TYPES = {"int": "INT", "ints": "INTS", "float": "FLOAT", "floats": "FLOATS", "string": "STRING"}


def register() -> None:
    """Register every operator's schema with :mod:`onnx.defs`; doing it again does nothing."""
    import onnx

    for operator in OPERATOR_EXPORTS.values():
        schema = operator.schema
        if not onnx.defs.has(schema.op_type, schema.domain):
            onnx.defs.register_schema(_onnx_schema(operator))


def _onnx_schema(operator: OperatorExport) -> onnx.defs.OpSchema:
    import onnx

    definition = onnx.defs.OpSchema
    schema = operator.schema
    optional = definition.FormalParameterOption.Optional
    single = definition.FormalParameterOption.Single
    types = [_ONNX_TYPES[dtype] for dtype in FEATURE_DTYPES]
    # A type variable for each: one may be float32 while another is half.
    variables = {name: f"T_{name}" for name in operator.coordinate_inputs}
    constraints = [
        ("T", types, "Features, weights and outputs."),
        *((variable, types, "float32, or the type of the features.") for variable in variables.values()),
    ]
    if schema.quantisation:
        # Beside int8 features the bias is float32, and the output one or the other.
        variables |= {"B": "T_B", "Y": "T_Y"}
        constraints[0] = ("T", [*types, _INT8], "Features and weights; int8 where the node has scales.")
        constraints += [
            ("T_B", types, "The type of the features; float32 beside int8."),
            ("T_Y", [*types, _INT8], "The type of the features; beside int8 float32 without y_scale."),
        ]
    result = definition(
        schema.op_type,
        schema.domain,
        schema.version,
        doc=f"See dcn_deploy.ops.{schema.torch_name.split('::')[1]}.",
        inputs=[
            definition.FormalParameter(
                declared.name,
                variables.get(declared.name, "T"),
                param_option=optional if declared.optional else single,
            )
            for declared in schema.inputs
        ],
        outputs=[definition.FormalParameter(name, variables.get(name, "T")) for name in schema.outputs],
        type_constraints=constraints,
        attributes=[
            definition.Attribute(
                attribute.name,
                getattr(definition.AttrType, _ATTRIBUTE_TYPES[attribute.kind]),
                required=attribute.required,
            )
            for attribute in (*schema.attributes, *schema.quantisation)
        ],
    )
    result.set_type_and_shape_inference_function(lambda context: _infer(operator, context))
    return result


def _infer(operator: OperatorExport, context: Any) -> None:
    """Set the outputs' types from the inputs' (``onnx.shape_inference`` calls it once a node)."""
    import onnx

    schema = operator.schema
    view = _view(schema, context)
    first = context.get_input_type(0) if context.get_num_inputs() and context.has_input(0) else None
    features = 0 if first is None else first.tensor_type.elem_type
    connected = tuple(context.has_input(i) for i in range(context.get_num_inputs()))
    problem = next(schema_problems(schema, connected, view.attributes), None) or next(operator.problems(view), None)
    if problem is not None:
        # An exception would end the inference of the whole model, also for a caller that asked for leniency.
        # The node is refused by name elsewhere: by convert, by lint and by the runtimes.
        shapes: tuple[tuple[Dim, ...], ...] = ()
    else:
        shapes = operator.output_shapes(view)
        if int8.is_quantised(view):
            features = onnx.TensorProto.INT8 if int8.output_dtype(view) == "int8" else onnx.TensorProto.FLOAT
    for position, extents in enumerate(shapes):
        result = onnx.TypeProto()
        result.tensor_type.elem_type = features
        for extent in extents:
            dim = result.tensor_type.shape.dim.add()
            if isinstance(extent, int):
                dim.dim_value = extent
            elif extent is not None:
                dim.dim_param = extent
        context.set_output_type(position, result)


def _view(schema: OperatorSchema, context: Any) -> NodeView:
    import onnx

    shapes: dict[str, Dims] = {}
    dtypes: dict[str, str | None] = {}
    for position, declared in enumerate(schema.inputs):
        if position < context.get_num_inputs() and context.has_input(position):
            type_ = context.get_input_type(position)
            tensor = type_.tensor_type if type_ is not None else None
            shapes[declared.name] = (
                tuple(_extent(dim) for dim in tensor.shape.dim) if tensor and tensor.HasField("shape") else None
            )
            dtypes[declared.name] = None
    attributes = {
        attribute.name: _value(onnx.helper.get_attribute_value(found))
        for attribute in (*schema.attributes, *schema.quantisation)
        if (found := context.get_attribute(attribute.name)) is not None
    }
    return NodeView(schema, schema.op_type, tuple(shapes), shapes, dtypes, attributes)


def _value(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _extent(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.HasField("dim_param") and dim.dim_param else None
