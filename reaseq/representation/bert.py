"""A BERT (https://arxiv.org/abs/1810.04805) as an ONNX graph, from its own configuration and weights."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

IDS, VECTORS = "ids", "vectors"  # the graph's input and output
OPSET = 23  # the first with Attention
IR_VERSION = 11


def build_bert(config: dict[str, Any], weights_file: Path) -> bytes:
    """The model that maps token ids (B, T), without padding, to the means of its last layer over the tokens (B, D)."""
    graph = _Graph(load_file(weights_file), config["layer_norm_eps"])
    heads: int = config["num_attention_heads"]
    hidden = graph.embeddings()
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        attended = graph.attention(hidden, f"{name}.attention.self", heads)
        mixed = graph.linear(attended, f"{name}.attention.output.dense")
        hidden = graph.norm(graph.add("Add", mixed, hidden), f"{name}.attention.output")
        wide = graph.add("Gelu", graph.linear(hidden, f"{name}.intermediate.dense"))
        narrow = graph.linear(wide, f"{name}.output.dense")
        hidden = graph.norm(graph.add("Add", narrow, hidden), f"{name}.output")
    graph.add("ReduceMean", hidden, graph.constant("tokens", np.array([1])), output=VECTORS, keepdims=0)
    return graph.serialize(config["hidden_size"])


class _Graph:
    """Nodes and constants; each method adds what computes a value, and returns the value's name."""

    def __init__(self, weights: dict[str, NDArray[np.float32]], epsilon: float) -> None:
        self._weights = weights
        self._epsilon = epsilon
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """One node with one output."""
        output = output or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self._weights[name])

    def embeddings(self) -> str:
        """The normalized embeddings of tokens, their positions and the one segment (B, T, D)."""
        places = self._weights["embeddings.position_embeddings.weight"]
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        words = self.add("Gather", self.weight("embeddings.word_embeddings.weight"), IDS)
        first, axis = self.constant("first", np.array([0])), self.constant("axis", np.array([0]))
        tokens = self.add("Shape", IDS, start=1, end=2)
        positions = self.add("Slice", self.constant("positions", places + segment), first, tokens, axis)
        return self.norm(self.add("Add", words, positions), "embeddings")

    def attention(self, hidden: str, name: str, heads: int) -> str:
        parts = [self.linear(hidden, f"{name}.{part}") for part in ("query", "key", "value")]
        return self.add("Attention", *parts, q_num_heads=heads, kv_num_heads=heads)

    def linear(self, inputs: str, name: str) -> str:
        product = self.add("MatMul", inputs, self.constant(f"{name}.weight", self._weights[f"{name}.weight"].T))
        return self.add("Add", product, self.weight(f"{name}.bias"))

    def norm(self, inputs: str, name: str) -> str:
        scale, shift = self.weight(f"{name}.LayerNorm.weight"), self.weight(f"{name}.LayerNorm.bias")
        return self.add("LayerNormalization", inputs, scale, shift, epsilon=self._epsilon)

    def serialize(self, dim: int) -> bytes:
        ids = helper.make_tensor_value_info(IDS, TensorProto.INT64, ["B", "T"])
        vectors = helper.make_tensor_value_info(VECTORS, TensorProto.FLOAT, ["B", dim])
        graph = helper.make_graph(self._nodes, "bert", [ids], [vectors], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        return bytes(model.SerializeToString())
