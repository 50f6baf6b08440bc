"""Inference engines: what the course's network, exported, takes to predict in ONNX Runtime and in OpenVINO.

A network is exported for a batch as it comes, as somebody would who wants speed, and runs on as many threads as torch.
"""

from __future__ import annotations

import importlib.util
import io
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from benchmarks.peers.contender import COURSE, Contender
from benchmarks.peers.loops import drawn

#: Takes images and timesteps of the shapes that it was made for.
Prediction = Callable[[Tensor, Tensor], Tensor]


class Exported(Contender):
    """A network outside PyTorch; it cannot be trained there."""

    trains = False

    def __init__(self, name: str, precision: str, model: nn.Module, size: int) -> None:
        super().__init__(name, precision)
        self.model, self.size = model.eval(), size
        self._made: dict[torch.Size, Prediction] = {}

    @abstractmethod
    def make(self, x: Tensor, t: Tensor) -> Prediction:
        """Export the network for images and timesteps like these."""

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """A forward pass; the first of a batch size exports."""
        if x.shape not in self._made:
            self._made[x.shape] = self.make(x, t)
        return self._made[x.shape](x, t)

    def sample(self, count: int, betas: Tensor, steps: int | None) -> Tensor:
        """Draw by the course's loops."""
        return drawn(self.predict, (count, COURSE["in_ch"], self.size, self.size), betas, steps)

    def train(self, batch: Tensor, betas: Tensor, steps: int) -> NoReturn:
        """Refuse."""
        raise NotImplementedError(f"{self.name} predicts only")

    def epoch(self, folder: Path, betas: Tensor, batch_size: int) -> NoReturn:
        """Refuse."""
        raise NotImplementedError(f"{self.name} predicts only")


class OnnxRuntime(Exported):
    """ONNX Runtime, in float32: its processor kernels have no bfloat16."""

    def make(self, x: Tensor, t: Tensor) -> Prediction:
        """Export to ONNX, and run that."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Its threads would go on looking for work while the next contender is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            _onnx(self.model, x, t), options, providers=["CPUExecutionProvider"]
        )
        first, second = (entry.name for entry in session.get_inputs())
        return lambda x, t: torch.from_numpy(session.run(None, {first: x.numpy(), second: t.numpy()})[0])


class OpenVino(Exported):
    """OpenVINO, in float32 or bfloat16."""

    def make(self, x: Tensor, t: Tensor) -> Prediction:
        """Export to ONNX, and run that."""
        import openvino

        kind = {"fp32": "f32", "bf16": "bf16"}[self.precision]
        how = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": kind,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        network = core.compile_model(core.read_model(io.BytesIO(_onnx(self.model, x, t))), "CPU", how)
        return lambda x, t: torch.from_numpy(network([x.numpy(), t.numpy()])[0])


def _onnx(model: nn.Module, x: Tensor, t: Tensor) -> bytes:
    """The network for inputs like these, as ONNX."""
    file = io.BytesIO()
    program: Any = torch.onnx.export(model, (x, t), dynamo=True, verbose=False)
    program.save(file)
    return file.getvalue()


def exported(make: Callable[[], nn.Module], size: int) -> list[Contender]:
    """List the engines that are installed."""
    known = {
        module
        for module in ("onnx", "onnxscript", "onnxruntime", "openvino")
        if importlib.util.find_spec(module)
    }
    if not {"onnx", "onnxscript"} <= known:
        return []
    out: list[Contender] = []
    if "onnxruntime" in known:
        out.append(OnnxRuntime("ONNX Runtime", "fp32", make(), size))
    if "openvino" in known:
        out += [OpenVino(f"OpenVINO {precision}", precision, make(), size) for precision in ("fp32", "bf16")]
    return out
