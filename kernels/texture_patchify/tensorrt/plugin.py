"""The TensorRT plugin of texture_patchify in Python: same name, fields and results as plugin.cpp.

For Python programs that build or run engines without the compiled plugin. It calls the same CUDA
library. TensorRT is given as a module, so that `tensorrt` and its lean and dispatch variants work.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from types import ModuleType
from typing import Any

import numpy as np

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.kernels.texture_patchify import cuda
from mpft_deploy.kernels.texture_patchify.oracle import MAX_PATCH, MIN_PATCH
from mpft_deploy.spec import KeepRule

NAME, VERSION, NAMESPACE = "texture_patchify", "1", "mpft"
FIELD_TYPES = {
    "patch": "INT32",
    "keep": "INT32",
    "count": "INT32",
    "patch_type": "INT32",
    "seed": "INT64",
}
F16, F32 = 1, 2  # values of patch_type


@dataclass(frozen=True)
class Attributes:
    """What a plugin is made from, and all that an engine stores of it; as in attributes.hpp.

    patch: side of a cell in pixels, 4 to 64.
    keep: `cuda.KEEP_CODES` of the rule's kind.
    count: K, and 0 for the rule `all`.
    patch_type: F16 or F32. TensorRT documents no plugin that writes uint8.
    seed: the bits of the unsigned seed, as a signed 64-bit integer.
    """

    patch: int
    keep: int
    count: int
    patch_type: int = F16
    seed: int = 0

    def __post_init__(self) -> None:
        is_all = self.keep == cuda.KEEP_CODES["all"]
        if (
            not MIN_PATCH <= self.patch <= MAX_PATCH
            or self.keep not in cuda.KEEP_CODES.values()
            or (self.count != 0 if is_all else self.count < 1)
            or self.patch_type not in (F16, F32)
        ):
            raise UsageError(f"these are no attributes of the TensorRT plugin {NAME}: {self}")

    @classmethod
    def of(cls, patch: int, keep: KeepRule, seed: int = 0, *, patch_type: int = F16) -> Attributes:
        """From a patch size, a rule and its seed (0 to 2⁶⁴ − 1)."""
        signed = seed - 2**64 if seed >= 2**63 else seed
        return cls(patch, cuda.KEEP_CODES[keep.kind], keep.count or 0, patch_type, signed)

    def arguments(self, batch: int, size: int, frames: int, outputs: list[int]) -> cuda.Arguments:
        """The launcher's arguments for contiguous frames u8 [batch, size, size, 3]."""
        patches, positions, scores = outputs
        return cuda.Arguments(
            frames=frames,
            row_pitch=3 * size,
            batch_stride=3 * size * size,
            patches=patches,
            positions=positions,
            scores=scores,
            seed=self.seed % 2**64,
            batch=batch,
            size=size,
            patch=self.patch,
            count=self.count or (size // self.patch) ** 2,
            keep=self.keep,
            patch_type=self.patch_type,
            schedule=cuda.SCHEDULE_CODES["auto"],
        )


def register(trt: ModuleType) -> Any:
    """Register the plugin in TensorRT's registry, and return its creator.

    Args:
        trt: `tensorrt`, or a module with the same plugin interface.

    Raises:
        EnvironmentLacksError: the registry refuses it, as it does if one of that name is there.
    """
    made = creator(trt)
    if not trt.get_plugin_registry().register_creator(made, NAMESPACE):
        raise EnvironmentLacksError(
            f"TensorRT refuses the plugin {NAME}: one of that name, version and namespace is "
            "registered already. Load either the compiled plugin or this one."
        )
    return made


def creator(trt: ModuleType) -> Any:
    """An IPluginCreatorV3One of TensorRT, for `Attributes`."""
    plugin_class = _plugin_class(trt)

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
            self.field_names = trt.PluginFieldCollection(
                [
                    trt.PluginField(name, np.array([]), getattr(trt.PluginFieldType, kind))
                    for name, kind in FIELD_TYPES.items()
                ]
            )

        def create_plugin(self, name: str, field_collection: Any, phase: Any) -> Any:
            return plugin_class(attributes_from(trt, field_collection))

    return Creator()


def attributes_from(trt: ModuleType, collection: Any) -> Attributes:
    """Read a PluginFieldCollection; a UsageError for unknown fields and wrong types or values."""
    values = {}
    for field in collection:
        kind = FIELD_TYPES.get(field.name)
        data = np.asarray(field.data)
        if kind is None or field.type != getattr(trt.PluginFieldType, kind) or data.size != 1:
            raise UsageError(
                f"field {field.name!r} is not one that the TensorRT plugin {NAME} takes; it takes "
                + ", ".join(f"{name} (one {kind})" for name, kind in FIELD_TYPES.items())
            )
        values[field.name] = int(data.reshape(-1)[0])
    if missing := {"patch", "keep", "count"} - values.keys():
        raise UsageError(f"the TensorRT plugin {NAME} needs fields: {', '.join(sorted(missing))}")
    return Attributes(**values)


def fields_from(trt: ModuleType, attributes: Attributes) -> Any:
    """A PluginFieldCollection that `attributes_from` reads back."""
    return trt.PluginFieldCollection(
        [
            trt.PluginField(
                field.name,
                np.array([value], np.int64 if FIELD_TYPES[field.name] == "INT64" else np.int32),
                getattr(trt.PluginFieldType, FIELD_TYPES[field.name]),
            )
            for field, value in zip(fields(attributes), astuple(attributes), strict=True)
        ]
    )


def _plugin_class(trt: ModuleType) -> Any:
    """The plugin's class; made here because its bases come from the given module."""

    class TexturePatchify(
        trt.IPluginV3,  # type: ignore[misc, name-defined]
        trt.IPluginV3OneCore,  # type: ignore[misc, name-defined]
        trt.IPluginV3OneBuild,  # type: ignore[misc, name-defined]
        trt.IPluginV3OneRuntime,  # type: ignore[misc, name-defined]
    ):
        def __init__(self, attributes: Attributes) -> None:
            trt.IPluginV3.__init__(self)
            trt.IPluginV3OneCore.__init__(self)
            trt.IPluginV3OneBuild.__init__(self)
            trt.IPluginV3OneRuntime.__init__(self)
            self.attributes = attributes
            self.plugin_name, self.plugin_version = NAME, VERSION
            self.plugin_namespace = NAMESPACE
            self.num_outputs = 3
            self.timing_cache_id = self.metadata_string = ",".join(
                f"{field.name}={value}"
                for field, value in zip(fields(attributes), astuple(attributes), strict=True)
            )

        def get_capability_interface(self, type: Any) -> Any:
            return self

        def clone(self) -> Any:
            return TexturePatchify(self.attributes)

        def get_output_data_types(self, input_types: Any) -> list[Any]:
            return [self._patch_type(), trt.DataType.INT32, trt.DataType.INT32]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, expr_builder: Any) -> list[Any]:
            batch, size = inputs[0][0], inputs[0][1]
            patch = self.attributes.patch
            operation = trt.DimensionOperation
            grid = expr_builder.operation(operation.FLOOR_DIV, size, expr_builder.constant(patch))
            cells = expr_builder.operation(operation.PROD, grid, grid)
            count = self.attributes.count
            kept = expr_builder.constant(count) if count else cells
            pixels = expr_builder.constant(3 * patch * patch)
            return [
                trt.DimsExprs([batch, kept, pixels]),
                trt.DimsExprs([batch, kept]),
                trt.DimsExprs([batch, cells]),
            ]

        def supports_format_combination(self, pos: int, in_out: Any, num_inputs: int) -> bool:
            desc = in_out[pos].desc
            accepted = {
                0: (trt.DataType.INT8, trt.DataType.UINT8),
                1: (self._patch_type(),),
            }.get(pos, (trt.DataType.INT32,))
            return desc.format == trt.TensorFormat.LINEAR and desc.type in accepted

        def configure_plugin(self, inp: Any, out: Any) -> None:
            pass

        def on_shape_change(self, inp: Any, out: Any) -> None:
            shape = tuple(inp[0].dims)
            if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
                raise UsageError(f"frames must be [B, S, S, 3], got {list(shape)}")

        def enqueue(
            self,
            input_desc: Any,
            output_desc: Any,
            inputs: Any,
            outputs: Any,
            workspace: int,
            stream: int,
        ) -> None:
            batch, size = tuple(input_desc[0].dims)[:2]
            arguments = self.attributes.arguments(batch, size, inputs[0], list(outputs))
            cuda.launch_arguments(arguments, stream)

        def attach_to_context(self, resource_context: Any) -> Any:
            return self.clone()

        def get_fields_to_serialize(self) -> Any:
            return fields_from(trt, self.attributes)

        def _patch_type(self) -> Any:
            return trt.DataType.FLOAT if self.attributes.patch_type == F32 else trt.DataType.HALF

    return TexturePatchify
