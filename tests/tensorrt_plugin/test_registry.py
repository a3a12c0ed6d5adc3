"""The library in the real plugin registries of TensorRT 11 (its lean runtime) and of TensorRT-RTX."""

from __future__ import annotations

from typing import Any

import pytest

CONV = "DeformConv2d"
POOL = "DeformRoIPool2d"

CREATORS = [
    [op_type, "1", namespace, "IPluginCreatorV3One"] for op_type in (CONV, POOL) for namespace in ("", "dcn_deploy")
]

CONV_FIELDS: dict[str, Any] = {
    "kernel_shape": [3, 2],
    "strides": [2, 3],
    "pads": [1, 2, 3, 4],
    "dilations": [3, 1],
    "group": 2,
    "offset_group": 4,
    "x_scale": 0.5,
    "weight_scale": [0.25, 0.125],
    "y_scale": 1.5,
    "allow_tf32": 1,
    "constant_weights": 1,
    "optional_inputs": "mask",
}
POOL_FIELDS: dict[str, Any] = {
    "variant": "psroi",
    "output_size": [3, 5],
    "spatial_scale": 0.0625,
    "gamma": 0.25,
    "sampling_ratio": 3,
    "sample_per_part": 5,
    "group_size": 2,
    "part_size": 7,
    "output_channels": 6,
    "optional_inputs": "mask",
}
#: What an engine holds beside them.
IN_AN_ENGINE = {"fields_version": 1, "layer_name": "backbone.conv2"}


def _text(fields: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    return "".join(f"{name}={shown(value)};" for name, value in fields.items())


def test_creators_are_found_by_name_version_and_namespace(steps: Any) -> None:
    outcome = steps(
        ["found"],
        ["field_names", CONV, ""],
        ["field_names", POOL, "dcn_deploy"],
        ["missing", CONV, "2", ""],
        ["missing", CONV, "1", "elsewhere"],
        ["missing", POOL, "1", ""],
    )
    assert outcome.results == [CREATORS, list(CONV_FIELDS), list(POOL_FIELDS), True, True, False]
    assert outcome.messages == []


@pytest.mark.parametrize(("op_type", "fields"), [(CONV, CONV_FIELDS), (POOL, POOL_FIELDS)], ids=[CONV, POOL])
def test_plugins_are_created_in_both_phases(steps: Any, op_type: str, fields: dict[str, Any]) -> None:
    wanted = [
        ["create", op_type, namespace, given, phase]
        for namespace in ("", "dcn_deploy")
        for phase, given in (("BUILD", fields), ("RUNTIME", {**fields, **IN_AN_ENGINE}))
    ]
    outcome = steps(*wanted)
    assert outcome.messages == []
    for (_, _, namespace, *_), plugin in zip(wanted, outcome.results, strict=True):
        assert plugin["kinds"] == ["PLUGIN", "PLUGIN_V3ONE_CORE", "PLUGIN_V3ONE_BUILD", "PLUGIN_V3ONE_RUNTIME"]
        assert plugin["name"] == [op_type, "1", namespace]
        assert plugin["outputs"] == 1
        assert plugin["metadata"] == _text(fields)
        assert plugin["timing_cache_id"].endswith(f" {op_type} {_text(fields)}")


def test_attributes_have_defaults_in_a_build_and_none_in_an_engine(steps: Any) -> None:
    outcome = steps(
        ["create", CONV, "", {}, "BUILD"],
        ["create", CONV, "", IN_AN_ENGINE, "RUNTIME"],
    )
    made, refused = outcome.results
    assert made["metadata"].startswith("kernel_shape=-1,-1;strides=1,1;pads=0,0,0,0;dilations=1,1;group=1;")
    assert refused is None
    assert outcome.messages == [
        "dcn_deploy: DeformConv2d 'a layer': fields of the engine: expected kernel_shape among them, got none. "
        "Rebuild the engine with this library"
    ]


@pytest.mark.parametrize(
    ("op_type", "fields", "phase", "message"),
    [
        (CONV, {"strides": [1, 1, 1]}, "BUILD", "field strides: expected 2 values, got 3"),
        (CONV, {"strides": 1.5}, "BUILD", "field strides: expected kINT32 or kINT64, got kFLOAT32"),
        (CONV, {"group": 0}, "BUILD", "attribute group: expected at least 1, got 0"),
        (CONV, {"x_scale": 0.5}, "BUILD", "field weight_scale: expected positive, finite numbers, got 0.000000"),
        (CONV, {"stride": [1, 1]}, "BUILD", "field stride: expected one of kernel_shape, strides, pads, dilations, "),
        (CONV, {"optional_inputs": "bias"}, "BUILD", "field optional_inputs: expected names of B,mask in this order, "),
        (CONV, {**CONV_FIELDS, "fields_version": 9}, "RUNTIME", "fields of the engine: expected version 1, got 9. "),
        (CONV, CONV_FIELDS, "RUNTIME", "fields of the engine: expected fields_version among them, got none. "),
        (POOL, {}, "BUILD", "attribute output_size[0]: expected at least 1, got 0"),
        (POOL, {**POOL_FIELDS, "variant": "x"}, "BUILD", 'attribute variant: expected "aligned" or "psroi", got "x"'),
        (POOL, {**POOL_FIELDS, "gamma": 1}, "BUILD", "field gamma: expected kFLOAT32 or kFLOAT64, got kINT32"),
    ],
)
def test_refusals(steps: Any, op_type: str, fields: dict[str, Any], phase: str, message: str) -> None:
    outcome = steps(["create", op_type, "dcn_deploy", fields, phase])
    assert outcome.results == [None]
    (said,) = outcome.messages
    assert said.startswith(f"dcn_deploy: {op_type} 'a layer': {message}")


def test_the_library_is_deregistered_and_loaded_again(steps: Any) -> None:
    outcome = steps(["deregister"], ["load_again"], ["create", CONV, "", CONV_FIELDS, "BUILD"], ["deregister"])
    gone, back, plugin, gone_again = outcome.results
    assert (gone, back, gone_again) == ([], CREATORS, [])
    assert plugin["name"] == [CONV, "1", ""]
