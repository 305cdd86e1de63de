"""Encoders as graphs that run without Python code of ours: ONNX and `torch.export`.

The batch is the only free dimension. Each file is run as its readers will run it, at batch sizes
other than the traced one, and must compute what the encoder computes.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import ClipsConfig
from pipeline.encoders import frontend
from pipeline.encoders.contract import Input
from pipeline.errors import UserError

TOLERANCE = 1e-4  # largest difference of a feature, against the largest feature where that is > 1
BATCHES = (1, 7)  # sizes that each file is run at
_TRACED = 2  # a size that none of them is: tracing 1 would fix it
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Graph:
    """What a file computes."""

    module: nn.Module  # in eval mode, on the CPU
    input: str  # name of its only input; the output is named ``features``, float32 [B, dim]
    examples: Tensor  # as many inputs as the largest of `BATCHES`, drawn from a fixed seed


def graph(encoder: nn.Module, modality: str, clips: ClipsConfig, front_end: bool) -> Graph:
    """The graph of an encoder at the sizes of `clips`.

    Args:
        front_end: begin before the front end: with ``frames`` uint8 [B, T, H, W, 3] (normalised
            inside) in place of ``video``, with ``waveform`` float32 [B, samples] (log-mel inside)
            in place of ``spectrogram``.
    """
    draw = torch.Generator().manual_seed(0)
    video, audio = clips.video, clips.audio
    front, name = frontend.front_end(modality, encoder, clips), "waveform"
    if modality == "video":
        name = "frames"
        shape = (max(BATCHES), video.frames, video.size, video.size, 3)
        media = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    else:
        media = 0.1 * torch.randn((max(BATCHES), audio.samples), generator=draw)
    if not front_end:
        inputs = {"frames": "video", "waveform": Input.of(encoder, modality).kind}
        return Graph(encoder, inputs[name], front(media))
    for module in front.modules():
        for buffer_name, buffer in module.named_buffers(recurse=False):
            # Of its own memory: torchaudio's window is a view of a longer one.
            setattr(module, buffer_name, buffer.clone())
    both = nn.Sequential(OrderedDict(front=front, encoder=encoder))
    return Graph(both.eval(), name, media)


def require_onnx() -> None:
    """Raise UserError if a package that ONNX files need is missing."""
    for name in _ONNX_PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(
                f"the format onnx needs the package {name}: install this project's extra 'export' "
                '(pip install "xdc-ray[export]"), or leave out onnx'
            ) from None


def trace(graph: Graph) -> torch.export.ExportedProgram:
    """The graph by `torch.export`, without paths of the machine that made it."""
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    with torch.no_grad():
        program = torch.export.export(
            graph.module, (graph.examples[:_TRACED],), dynamic_shapes=dynamic
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    return program


def torch_export_file(graph: Graph, program: torch.export.ExportedProgram) -> bytes:
    """The bytes of a ``.pt2`` file, checked.

    Raises:
        RuntimeError: it does not compute what the encoder does, at every batch size.
    """
    file = io.BytesIO()
    example, program.example_inputs = program.example_inputs, None  # would be stored, too
    torch.export.save(program, file)
    program.example_inputs = example
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch about its own buffers
        loaded = torch.export.load(file).module()
    _compare("torch.export", graph, lambda media: loaded(media).numpy())
    return file.getvalue()


def onnx_file(graph: Graph, program: torch.export.ExportedProgram) -> bytes:
    """The bytes of an ``.onnx`` file with its weights inside, checked with onnxruntime.

    Raises:
        RuntimeError: it does not compute what the encoder does, at every batch size.
    """
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about torch
        converted = torch.onnx.export(
            program,
            input_names=[graph.input],
            output_names=["features"],
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    assert converted is not None
    model = converted.model_proto
    free = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == free:
                dim.dim_param = "batch"
    for part in (*model.graph.node, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")  # how torch traced it
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    _compare("onnxruntime", graph, lambda media: session.run(None, {graph.input: media.numpy()})[0])
    return data


def _compare(reader: str, graph: Graph, run: Callable[[Tensor], np.ndarray]) -> None:
    """Raise RuntimeError where `reader` and the encoder differ, at any of `BATCHES`."""
    with torch.no_grad():
        expected = graph.module(graph.examples).numpy()
        allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        for size in BATCHES:
            found = run(graph.examples[:size])
            if found.shape != expected[:size].shape:
                raise RuntimeError(f"{reader} gives {list(found.shape)} features of {size} clips")
            difference = float(np.abs(found - expected[:size]).max())
            if not difference <= allowed:
                raise RuntimeError(
                    f"{reader} gives features that differ by {difference:.2g} from ours, of a "
                    f"batch of {size}"
                )
