"""The Triton model repository, by the server's own schema."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from reference import FLOAT32

from mpft_deploy.bundle import Certificate
from mpft_deploy.engine.ort import make_session
from mpft_deploy.errors import UsageError
from mpft_deploy.export.layouts import export_triton
from mpft_deploy.export.pipeline import Request
from mpft_deploy.spec import Calibration, convert_record


def parse(text: str):
    """A config.pbtxt as Triton's ModelConfig; any unknown field or value is an error."""
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed"
    )
    from google.protobuf import text_format

    return schema, text_format.Parse(text, schema.ModelConfig())


def test_repository_is_what_the_server_expects(make_detector, tmp_path):
    calibration = Calibration(shift=-0.25, scale=1.5, threshold=0.4, unsure=(0.3, 0.45))
    spec = make_detector(tmp_path / "my detector", calibration=calibration)
    folder, made = export_triton(Request(tmp_path / "my detector", tmp_path / "models", *FLOAT32))
    assert folder == tmp_path / "models" / "my_detector"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"config.pbtxt", "1/model.onnx", "certificate.json"}
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["my_detector"]

    schema, config = parse((folder / "config.pbtxt").read_text(encoding="ascii"))
    assert config.name == folder.name
    assert config.backend == "onnxruntime"
    assert config.version_policy.latest.num_versions == 1
    assert config.HasField("dynamic_batching")
    assert 0 < config.dynamic_batching.max_queue_delay_microseconds < 1e6
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_CPU
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    read_back = Calibration(
        shift=float(parameters["mpft.shift"]),
        scale=float(parameters["mpft.scale"]),
        threshold=float(parameters["mpft.threshold"]),
        unsure=(float(parameters["mpft.unsure_low"]), float(parameters["mpft.unsure_high"])),
    )
    assert read_back == calibration
    assert parameters["mpft.detector_seal"] == made.detector_seal

    certificate = json.loads((folder / "certificate.json").read_text())
    assert convert_record(certificate, Certificate, "certificate").smoke_faults == []
    assert_config_fits_model(schema, config, folder / "1" / "model.onnx", spec)


def assert_config_fits_model(schema, config, path, spec):
    """Types and shapes of the config are those of the model, and the warm-up request runs."""
    types = {"UINT8": schema.TYPE_UINT8, "FLOAT": schema.TYPE_FP32, "INT32": schema.TYPE_INT32}
    graph = onnx.load(path).graph
    assert len(config.input) == len(graph.input)
    described = {entry.name: entry for entry in (*config.input, *config.output)}
    for value in (*graph.input, *graph.output):
        entry, tensor = described.pop(value.name), value.type.tensor_type
        assert entry.data_type == types[onnx.TensorProto.DataType.Name(tensor.elem_type)]
        # The batch dimension is the server's own where max_batch_size is positive.
        dims = list(entry.reshape.shape) if entry.HasField("reshape") else list(entry.dims)
        assert [dim.dim_value for dim in tensor.shape.dim[1:]] == dims
        assert tensor.shape.dim[0].dim_param
        assert list(entry.dims), "the server wants at least one dimension"
    assert not described
    assert config.max_batch_size > 0

    (warm_up,) = config.model_warmup
    assert warm_up.batch_size <= config.max_batch_size
    inputs = warm_up.inputs["frames"]
    frames = np.random.default_rng(0).integers(0, 256, (warm_up.batch_size, *inputs.dims), np.uint8)
    session = make_session(path.read_bytes(), threads=1)
    logit, positions = session.run(["logit", "positions"], {"frames": frames})
    assert logit.shape == (1,)
    assert positions.shape == (1, spec.tokens)


def test_dynamic_int8_is_served_one_image_at_a_time(detector, tmp_path):
    """In a batch, dynamic scales would let one client's image change another's verdict."""
    folder, _ = export_triton(Request(detector, tmp_path / "models", "onnxruntime", "int8"))
    _, config = parse((folder / "config.pbtxt").read_text())
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")


def test_other_models_are_left_alone(detector, tmp_path):
    models = tmp_path / "models"
    (models / "other" / "1").mkdir(parents=True)
    request = Request(detector, models, *FLOAT32)
    folder, _ = export_triton(request)
    with pytest.raises(UsageError, match="--overwrite"):
        export_triton(request)
    export_triton(Request(detector, models, *FLOAT32, overwrite=True))
    (folder / "2").mkdir()
    (folder / "2" / "model.onnx").touch()  # another version, which the export did not write
    with pytest.raises(UsageError, match=r"2/model\.onnx"):
        export_triton(Request(detector, models, *FLOAT32, overwrite=True))
    assert (folder / "2" / "model.onnx").exists()
    assert sorted(path.name for path in models.iterdir()) == ["other", detector.name]


def test_repository_that_is_a_file(detector, tmp_path):
    (tmp_path / "models").touch()
    with pytest.raises(UsageError, match="is a file"):
        export_triton(Request(detector, tmp_path / "models", *FLOAT32))
