"""Which filters must leave together, and removing them from a network.

Every channel of every tensor gets a number by walking the torch.fx trace of the network: a convolution makes new
channels; batch normalisation, activations and pooling pass them on; concatenation joins lists of them, flattening
repeats them; addition, multiplication by a gate and depthwise convolution declare that two channels are one. Channels
that are one form a *group*, which stays or leaves as a whole. A grouped convolution keeps groups of equal size by
leaving whole: the inputs and outputs of one of its groups are one channel group. Every axis of every parameter then
carries a list of groups, and removing filters is one `index_select` for each axis.

**Removing equals masking.** A group is masked when every convolution and linear layer that reads its channels reads
zero there. Removal gives exactly that function. It is the same as setting to zero what makes the channels (weights
and bias of the filters, gamma and beta of batch normalisation), because the operations in between map zero to zero;
where one does not (sigmoid: 0.5), either its result multiplies a channel of the same group, as the gate of squeeze and
excite does, or what counts is the zero that is read.

**Filters** are convolution output channels; outputs of linear layers are none, and stay.

**Aligned storage.** Processors work on channels by eights and sixteens, and a layer of 61 filters may take longer than
one of 64. So a graph can store layers at the next multiple of a number: some of the removed groups stay behind as
*dead* filters, zero in all that makes them and all that reads them. Such a zero is exact and lasts: the gradient of what
makes a dead channel passes through the zeros that read it; that of what reads it is a product with the channel's own zero,
or is set to zero where it is not (after a sigmoid, 0.5 would be read). Dead filters change no output and no other gradient,
and are never counted; which they are follows from `removed` and `multiple` alone.
"""

from __future__ import annotations

import copy
import math
import operator
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import LongTensor, Tensor, fx, nn
from torchvision.ops import stochastic_depth

FIXED = 0  # the channel number of whatever can never leave: the network's inputs, its outputs, constants, kept layers
_TRACING = re.compile("|".join(map(re.escape, (str(Path(torch.__file__).parent) + os.sep, __file__))))

# what each operation does to channels: the name of a method of _Walk
_MODULES = dict.fromkeys((
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool2d, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), "passed") | {
    nn.Conv2d: "convolution", nn.Linear: "linear", nn.Flatten: "reshaped", nn.PReLU: "prelu",
    nn.BatchNorm1d: "batchnorm", nn.BatchNorm2d: "batchnorm", nn.SyncBatchNorm: "batchnorm"}
_METHODS = {name: rule for rule, names in {
    "passed": """relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ celu selu gelu silu mish hardtanh hardswish
                 hardsigmoid sigmoid sigmoid_ tanh tanh_ softplus clamp neg div div_ truediv itruediv dropout dropout2d
                 max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d contiguous clone detach to float""",
    "combined": "add add_ iadd sub sub_ isub mul mul_ imul",
    "joined": "cat concat concatenate",
    "reshaped": "flatten view reshape squeeze unsqueeze",
    "reduced": "mean sum amax",
}.items() for name in names.split()}
_FUNCTIONS = {getattr(home, name): rule for home in (torch, F, operator) for name, rule in _METHODS.items()
              if hasattr(home, name)} | {stochastic_depth: "passed"}


class ChannelError(ValueError):
    """Channels cannot be followed through the network: the message names the operation and its line of code."""


@dataclass
class _Slot:
    """A parameter or buffer, and the channels along its first two axes; None for an axis that holds none."""

    home: dict[str, Tensor]  # the module's own dictionary: moving a network to a device replaces buffers in it
    name: str
    axes: tuple[Tensor | int | None, Tensor | int | None]

    @property
    def tensor(self) -> Tensor:
        return self.home[self.name]

    def on_axes(self, values: list) -> list:
        """Those of `values`, by number of a list of groups, that belong to the axes; None where an axis holds none."""
        return [None if axis is None else values[axis] for axis in self.axes]


@dataclass
class _Layer:
    """A module with parameters along channels: what goes in and out, and at how many positions its filters work."""

    module: nn.Module
    kind: str  # of a convolution; empty for the others
    inputs: Tensor | int
    outputs: Tensor | int
    original: int  # output channels when traced
    positions: int = 0
    weight: _Slot | None = None


def _shape_alone(value):
    """A tensor's shape, as a tensor without values; anything else as it is."""
    return torch.empty(value.shape, device="meta") if isinstance(value, Tensor) else value


class _Tracer(fx.Tracer):
    """Records the line of code of every node, and does not run the hooks of the modules it steps into."""

    record_stack_traces = True

    def call_module(self, m, forward, args, kwargs):
        return super().call_module(m, m.forward, args, kwargs)


class _Walk(fx.Interpreter):
    """Numbers the channels of every tensor in `network`, in order of execution.

    Runs on the meta device: shapes are worked out without arithmetic, and no hook, statistic or random number of the
    network is touched.
    """

    def __init__(self, network: nn.Module, example: Tensor):
        network = copy.copy(network)  # a constant met in forward becomes an attribute of what is traced
        super().__init__(network, graph=_Tracer().trace(network))
        self.extra_traceback = False
        self.count = FIXED + 1
        self.same: list[Tensor] = []  # pairs of channels that are one, (2, pairs) each
        self.channels: dict[fx.Node, Tensor] = {}  # along axis 1 of each node's tensor
        self.slots: dict[int, _Slot] = {}  # by identity of the parameter or buffer
        self.layers: dict[str, _Layer] = {}
        self.batchnorm_after: dict[str, str] = {}
        self.run(_shape_alone(example))

    def groups(self) -> np.ndarray:
        """The group of every channel: the lowest number among the channels that are one with it."""
        one, other = torch.cat([torch.zeros(2, 1, dtype=torch.long), *self.same], dim=1).numpy()
        links = coo_matrix((np.ones(len(one)), (one, other)), shape=(self.count, self.count))
        label = connected_components(links, directed=False)[1]
        return np.unique(label, return_index=True)[1][label]

    def run_node(self, node: fx.Node):
        try:
            value = super().run_node(node)
        except Exception as error:
            raise self.refusal(node, f"it fails on shapes alone, {error}") from error
        channels = self.follow(node, value)
        if channels is not None:
            if value.dim() < 2 or value.shape[1] != len(channels):
                raise self.refusal(node, f"its result of shape {tuple(value.shape)} has other channels than its input")
            self.channels[node] = channels
        return value

    def call_module(self, target, args, kwargs):
        module = copy.copy(self.fetch_attr(target))
        module._parameters = {name: _shape_alone(tensor) for name, tensor in module._parameters.items()}
        module._buffers = {name: _shape_alone(tensor) for name, tensor in module._buffers.items()}
        module.training = False
        return module.forward(*args, **kwargs)

    def get_attr(self, target, args, kwargs):
        return _shape_alone(super().get_attr(target, args, kwargs))

    def follow(self, node: fx.Node, value) -> Tensor | None:
        """The channels along axis 1 of `value`, which `node` gives; None for what holds no channels, as a size."""
        if node.op == "output":
            for source in node.all_input_nodes:
                self.fix(self.channels.get(source, torch.tensor([FIXED])))
            return None
        if node.op in ("placeholder", "get_attr"):
            many = isinstance(value, Tensor) and value.dim() > 1
            return torch.full((value.shape[1],), FIXED) if many else None
        if not any(isinstance(part, Tensor) for part in (value if isinstance(value, (tuple, list)) else [value])):
            return None
        if node.op == "call_module":
            rule = _MODULES.get(type(self.fetch_attr(node.target)))
        else:
            rule = (_FUNCTIONS if node.op == "call_function" else _METHODS).get(node.target)
        if rule is None or not isinstance(value, Tensor):
            raise self.refusal(node, "it is not an operation whose effect on channels is known")
        return getattr(self, rule)(node, value)

    def refusal(self, node: fx.Node, reason: str) -> ChannelError:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        if node.op == "call_module":
            name = f"{type(self.fetch_attr(node.target)).__name__} '{node.target}'"
        frames = re.findall(r'File "[^\n]*\n[^\n]*', node.stack_trace or "")
        where = [frame for frame in frames if not _TRACING.search(frame)][-1:]  # the network's own innermost line
        return ChannelError("\n  ".join(
            [f"cannot follow channels through {name} (fx node {node.name}): {reason}", *where]))

    def source(self, node: fx.Node) -> Tensor:
        """The channels of the one tensor that goes into `node`."""
        sources = [n for n in node.all_input_nodes if n in self.channels]
        if len(sources) != 1:
            raise self.refusal(node, f"expected one tensor with channels, found {len(sources)}")
        return self.channels[sources[0]]

    def fresh(self, number: int) -> Tensor:
        self.count += number
        return torch.arange(self.count - number, self.count)

    def unite(self, one: Tensor, other: Tensor) -> None:
        self.same.append(torch.stack([one, other]))

    def fix(self, channels: Tensor) -> None:
        self.unite(channels, torch.full_like(channels, FIXED))

    def layer(self, node: fx.Node, inputs: Tensor, outputs: Tensor, columns: Tensor | None = None, kind: str = "",
              positions: int = 0) -> Tensor:
        """Notes the channels along the parameters and buffers of a module: `outputs` along the first axis of each,
        `columns` along the second of its weight. They are one with those of an earlier call, or of a shared weight."""
        module = self.fetch_attr(node.target)
        for home in (module._parameters, module._buffers):
            for name in home:
                if name in ("weight", "bias", "running_mean", "running_var") and home[name] is not None:
                    axes = (outputs, columns if name == "weight" else None)
                    for one, other in zip(self.slots.setdefault(id(home[name]), _Slot(home, name, axes)).axes, axes):
                        if one is not other:
                            self.unite(one, other)
        layer = self.layers.setdefault(node.target, _Layer(module, kind, inputs, outputs, len(outputs)))
        layer.positions += positions
        layer.weight = self.slots.get(id(module.weight))
        return layer.outputs

    # the rules: what an operation does to channels

    def passed(self, node: fx.Node, value: Tensor) -> Tensor:
        return self.source(node)

    def combined(self, node: fx.Node, value: Tensor) -> Tensor:
        sources = [n for n in node.all_input_nodes if isinstance(self.env[n], Tensor) and self.env[n].dim() > 0]
        if any(self.env[n].dim() != value.dim() or n not in self.channels for n in sources):
            raise self.refusal(node, f"shapes {[tuple(self.env[n].shape) for n in sources]} are not aligned by channel")
        first, *others = sorted((self.channels[n] for n in sources), key=len, reverse=True)
        for other in others:
            if len(other) == len(first):
                self.unite(first, other)
            else:  # one channel that meets them all
                self.fix(other)
        return first

    def joined(self, node: fx.Node, value: Tensor) -> Tensor:
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if dim % value.dim() != 1:
            raise self.refusal(node, f"concatenation along dim {dim}; only along channels (dim 1) is known")
        return torch.cat([self.channels[n] for n in node.args[0]])

    def reshaped(self, node: fx.Node, value: Tensor) -> Tensor:
        channels, shape = self.source(node), self.env[node.all_input_nodes[0]].shape
        if value.shape[:2] != shape[:2]:
            if value.dim() != 2 or value.shape[0] != shape[0]:
                raise self.refusal(node, f"{tuple(shape)} to {tuple(value.shape)} mixes channels with other axes")
            channels = channels.repeat_interleave(shape[2:].numel())
        if node.target in ("view", "reshape", torch.reshape):
            sizes = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
            if isinstance(sizes[1], int) and sizes[1] > 1:
                raise self.refusal(node, f"the number of channels, {sizes[1]}, is written out; flatten(1) stays right")
        return channels

    def reduced(self, node: fx.Node, value: Tensor) -> Tensor:
        rank = self.env[node.all_input_nodes[0]].dim()
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
        dims = [dim % rank for dim in (dims if isinstance(dims, (tuple, list)) else [dims])]
        if not dims or min(dims) < 2:
            raise self.refusal(node, f"over dims {dims}; only over positions (dims 2 and 3) is known")
        return self.source(node)

    def convolution(self, node: fx.Node, value: Tensor) -> Tensor:
        conv, inputs = self.fetch_attr(node.target), self.source(node)
        if conv.groups == 1:
            outputs = self.fresh(conv.out_channels)
        else:
            blocks = inputs.view(conv.groups, -1)
            for column in blocks.T[1:]:
                self.unite(blocks[:, 0], column)
            outputs = blocks[:, 0].repeat_interleave(conv.out_channels // conv.groups)
        return self.layer(node, inputs, outputs, inputs if conv.groups == 1 else None, _kind(conv),
                          positions=value.shape[2:].numel())

    def linear(self, node: fx.Node, value: Tensor) -> Tensor:
        inputs = self.source(node)
        if value.dim() != 2:
            raise self.refusal(node, f"its result has shape {tuple(value.shape)}; only (images, features) is known")
        return self.layer(node, inputs, self.fresh(value.shape[1]), inputs, positions=1)

    def batchnorm(self, node: fx.Node, value: Tensor) -> Tensor:
        channels, source = self.source(node), node.all_input_nodes[0]
        if source.op == "call_module" and len(source.users) == 1:
            self.batchnorm_after.setdefault(source.target, node.target)
        return self.layer(node, channels, channels)

    def prelu(self, node: fx.Node, value: Tensor) -> Tensor:
        channels = self.source(node)
        return self.layer(node, channels, channels) if self.fetch_attr(node.target).num_parameters > 1 else channels


def _kind(conv: nn.Conv2d) -> str:
    if conv.groups > 1:
        return "depthwise" if conv.groups == conv.in_channels else "grouped"
    return "pointwise" if conv.kernel_size == (1, 1) else "conv"


def _resize(module: nn.Module, inputs: int, outputs: int) -> None:
    """Brings the attributes that describe a module's size in line with its parameters."""
    if isinstance(module, nn.Conv2d):
        if module.groups > 1:
            module.groups = inputs // (module.in_channels // module.groups)
        module.in_channels, module.out_channels = inputs, outputs
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = inputs, outputs
    elif isinstance(module, nn.PReLU):
        module.num_parameters = outputs
    else:
        module.num_features = outputs


def _cut(tensor: Tensor, rows: LongTensor | None, columns: LongTensor | None) -> Tensor:
    """`tensor` with the kept positions of its first two axes (None: all of them), in the memory layout it had."""
    rows, columns = (None if kept is None else kept.to(tensor.device) for kept in (rows, columns))
    if tensor.dim() < 2:
        return tensor.index_select(0, rows)
    _, channels, *size = tensor.shape
    last = len(size) == 2 and tensor.stride() == (size[0] * size[1] * channels, 1, size[1] * channels, channels)
    if last:  # channels_last; for 1x1 filters nothing but the strides tells the two layouts apart
        tensor = tensor.permute(0, 2, 3, 1)
    if rows is not None:
        tensor = tensor.index_select(0, rows)
    if columns is not None and last:  # index_select is four times faster along the last axis of two than of four
        tensor = tensor.flatten(0, 2).index_select(1, columns).unflatten(0, tensor.shape[:3])
    elif columns is not None:
        tensor = tensor.index_select(1, columns)
    return tensor.permute(0, 3, 1, 2) if last else tensor


def _cut_in_place(tensor: Tensor, rows: LongTensor | None, columns: LongTensor | None, state: dict) -> None:
    """Cuts a parameter or buffer and the optimiser's state of it in place: they stay the same objects."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim():
            state[key] = _cut(value, rows, columns)
    cut = _cut(tensor.data, rows, columns)
    if tensor.requires_grad:
        # A graph still held (a loss that is in scope) keeps the gradient accumulator of the old shape alive, and the
        # next backward would fail on it; a change of type in between makes torch drop it.
        other = torch.float32 if cut.dtype == torch.float64 else torch.float64
        tensor.data = torch.empty(0, dtype=other, device=cut.device)
    tensor.data = cut


def _fill(tensor: Tensor, positions: list[LongTensor | None], value: float) -> None:
    """Fills the positions of the first two axes (None: of that axis none) with a value, in place."""
    for axis, where in enumerate(positions[:tensor.dim()]):
        if where is not None:
            tensor.index_fill_(axis, where.to(tensor.device), value)


def _clear_gradient(positions: list[LongTensor | None], parameter: Tensor) -> None:
    _fill(parameter.grad, positions, 0.0)


def _where(groups: list[np.ndarray], which: np.ndarray) -> list[LongTensor | None]:
    """The positions in each list of the groups of `which` (a flag by group id); None where there are none."""
    found = [np.flatnonzero(which[ids]) for ids in groups]
    return [torch.from_numpy(positions) if len(positions) else None for positions in found]


class ChannelGraph:
    """The channel groups of a network, and their removal.

    network: anything torch.fx can trace that is made of convolutions (plain, depthwise, grouped), batch normalisation,
    element-wise operations, pooling, concatenation, addition, multiplication by gates, flattening and linear layers.
    It is not changed by being traced; `remove` changes it in place.
    example: images (images, channels, height, width), of which only the shape counts.
    keep: names of layers whose channels may not be removed.
    multiple: filters that leave are stored as dead ones as long as a layer is wider than the next multiple of this; see
    `align`. Counts, tables and group ids are those of the network without them, whatever the multiple.

    Group ids are the same whenever the same architecture is traced, and survivors keep theirs when others leave, so
    that `removed` is all a fresh process needs: build, trace, `remove(removed)`, load the state_dict.

    Raises ChannelError for an operation whose effect on channels is not known, naming it and its line of code.
    """

    def __init__(self, network: nn.Module, example: Tensor, keep: Iterable[str] = (), multiple: int = 1):
        walk = _Walk(network, example)
        for name in keep:
            if name not in walk.layers:
                raise ValueError(f"keep: the network has no layer '{name}'; it has {', '.join(walk.layers)}")
            walk.fix(walk.layers[name].outputs)
        self._network = network
        self._batchnorm_after = walk.batchnorm_after
        self._layers = walk.layers
        self._slots = list(walk.slots.values())
        self._traced: list[np.ndarray] = []  # lists of group ids, each different one once; slots and layers hold its number
        self._share_lists(walk.groups())
        self._lists = self._stored = list(self._traced)  # what is left of them: without dead groups, and with
        self._prunable = np.zeros(walk.count, dtype=bool)  # by group id, as the network was traced
        for layer in self._convolutions().values():
            self._prunable[self._lists[layer.outputs]] = True
        self._prunable[FIXED] = False
        self._gone = np.zeros(walk.count, dtype=bool)
        self._dead = np.zeros(walk.count, dtype=bool)  # gone, and stored as zeros
        self._hooks: list = []
        self._multiple = _checked_multiple(multiple)

    def _share_lists(self, groups: np.ndarray) -> None:
        numbers: dict[int, int] = {}

        def number(channels: Tensor | None) -> int | None:
            if channels is not None and id(channels) not in numbers:
                numbers[id(channels)] = len(self._traced)
                self._traced.append(groups[channels.numpy()])
            return None if channels is None else numbers[id(channels)]

        for slot in self._slots:
            slot.axes = tuple(map(number, slot.axes))
        for layer in self._layers.values():
            layer.inputs, layer.outputs = number(layer.inputs), number(layer.outputs)

    def _convolutions(self) -> dict[str, _Layer]:
        return {name: layer for name, layer in self._layers.items() if layer.kind}

    @property
    def layers(self) -> pd.DataFrame:
        """One row per convolution, in order of execution (`depth` counts them), by the module's name.

        Columns: kind (conv, pointwise, depthwise, grouped), depth, in_channels, out_channels (now),
        out_channels_original, kernel ("3x3"), prunable (whether any filter may leave).
        """
        rows = [{"layer": name, "kind": layer.kind, "depth": depth, "in_channels": len(self._lists[layer.inputs]),
                 "out_channels": len(self._lists[layer.outputs]), "out_channels_original": layer.original,
                 "kernel": "x".join(map(str, layer.module.kernel_size)),
                 "prunable": bool(self._prunable[self._lists[layer.outputs]].any())}
                for depth, (name, layer) in enumerate(self._convolutions().items())]
        return pd.DataFrame(rows).set_index("layer")

    @property
    def groups(self) -> pd.DataFrame:
        """One row per group that may still leave, by group id.

        Columns: filters and parameters (scalars) that leave with it as the network is now, layers (a tuple of the
        names of the convolutions that lose filters). Parameters where two groups cross are counted with both.
        """
        ids = np.flatnonzero(self._prunable & ~self._gone)
        filters, layers = self._made_by
        return pd.DataFrame({"filters": filters[ids], "parameters": self._leaving()[ids], "layers": layers[ids]},
                            index=pd.Index(ids, name="group"))

    @cached_property
    def _made_by(self) -> tuple[np.ndarray, np.ndarray]:
        """By group id, as traced: how many filters a group has, and the names of the convolutions that have them."""
        filters, layers = np.zeros(len(self._gone), dtype=np.int64), np.full(len(self._gone), None, dtype=object)
        for name, layer in self._convolutions().items():
            for group, count in Counter(self._traced[layer.outputs].tolist()).items():
                filters[group] += count
                layers[group] = (*(layers[group] or ()), name)
        return filters, layers

    def _leaving(self) -> np.ndarray:
        """Scalars of all parameters that leave with each group, by group id."""
        scalars = np.zeros(len(self._lists), dtype=np.int64)  # that leave with one channel of each list
        leaving = np.zeros(len(self._gone), dtype=np.int64)
        channels = cache(lambda number: np.bincount(self._lists[number], minlength=len(leaving)))  # of each group in a list
        for slot in self._slots:
            if isinstance(slot.tensor, nn.Parameter):
                each = self._scalars_per_channel(slot)
                rows, columns = slot.axes
                if columns is None:
                    scalars[rows] += each
                    continue
                scalars[rows] += each * len(self._lists[columns])
                scalars[columns] += each * len(self._lists[rows])
                crossed = self._lists[rows][np.isin(self._lists[rows], self._lists[columns])]
                if len(crossed):  # where a group crosses itself, it leaves once
                    np.subtract.at(leaving, crossed, each * channels(columns)[crossed])
        for groups, each in zip(self._lists, scalars):
            np.add.at(leaving, groups, each)
        return leaving

    @property
    def removed(self) -> LongTensor:
        """Sorted ids of the groups removed so far."""
        return torch.from_numpy(np.flatnonzero(self._gone))

    @property
    def filters(self) -> int:
        """Convolution output channels."""
        return sum(len(self._lists[layer.outputs]) for layer in self._convolutions().values())

    @property
    def parameters(self) -> int:
        """Scalars in the network's parameters."""
        dead = sum(slot.tensor.numel() - self._scalars(slot) for slot in self._slots if isinstance(slot.tensor, nn.Parameter))
        return sum(parameter.numel() for parameter in self._network.parameters()) - dead

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolutions and linear layers for one image of the example's size.

        Biases, batch normalisation, activations and pooling are not counted.
        """
        return sum(layer.positions * self._scalars(layer.weight) for layer in self._layers.values() if layer.positions)

    def _scalars(self, slot: _Slot) -> int:
        """Scalars of a parameter, those of dead channels left out."""
        sizes = [len(groups) for groups in slot.on_axes(self._lists) if groups is not None]
        return self._scalars_per_channel(slot) * math.prod(sizes)

    def _scalars_per_channel(self, slot: _Slot) -> int:
        stored = [len(groups) for groups in slot.on_axes(self._stored) if groups is not None]
        return slot.tensor.numel() // math.prod(stored)

    def filter_groups(self, layer: str) -> LongTensor:
        """Group id of each current output channel of a convolution (or batch normalisation); see `groups`.

        Ids that `groups` does not list may not be removed.
        """
        return torch.from_numpy(self._lists[self._layer(layer).outputs].copy())

    def live(self, layer: str) -> LongTensor:
        """Positions of those filters, of `filter_groups`, in the layer's parameters: all of them if none is dead."""
        return torch.from_numpy(np.flatnonzero(~self._dead[self._stored[self._layer(layer).outputs]]))

    def _layer(self, name: str) -> _Layer:
        if name not in self._layers:
            raise KeyError(f"the network has no layer '{name}'; it has {', '.join(self._layers)}")
        return self._layers[name]

    def batchnorm_after(self, layer: str) -> str | None:
        """Name of the batch normalisation that alone reads the convolution's output, or None."""
        return self._batchnorm_after.get(layer)

    def remove(self, group_ids, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Removes groups of filters from the network, in place.

        group_ids: integers, from the index of `groups`, in one flat list or array.
        optimizer: its state (momentum) is cut with the parameters. Parameters and buffers stay the same objects and
        keep memory layout, requires_grad and hooks; all gradients are dropped (None).

        Raises before anything is changed: ValueError when an id is unknown, already removed or may not be removed, when
        a layer would lose all its filters, or when the optimiser's state does not have the shape of its parameter.
        """
        gone = self._gone.copy()
        gone[self._checked(group_ids)] = True
        emptied = [name for name, layer in self._convolutions().items() if gone[self._traced[layer.outputs]].all()]
        if emptied:
            raise ValueError(f"no filter would be left in {', '.join(emptied)}; leave at least one group of each layer")
        self._store(gone, self._multiple, optimizer)

    @property
    def multiple(self) -> int:
        """What the stored widths of layers are multiples of; 1 when no filter is dead."""
        return self._multiple

    def align(self, multiple: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Stores every layer that lost filters at the next multiple, or at its original width if that is less, in place.

        The function of the network stays: removed groups come back as zeros, or leave for good (multiple 1, for
        checkpoints and export). Coupled layers are widened together. A descriptor gets zeros at dead places.
        optimizer: its state (momentum) goes with the parameters. All gradients are dropped.
        Raises ValueError when multiple is less than 1, or when the optimiser's state does not have the shape of its parameter.
        """
        self._store(self._gone, _checked_multiple(multiple), optimizer)
        self._multiple = multiple

    def exact(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by the network's names (its state_dict, or momentum) without what is dead, as exact storage has them."""
        if not self._dead.any():
            return dict(tensors)
        live = _where(self._stored, ~self._dead)
        slots = {id(slot.tensor): slot for slot in self._slots}
        found = dict(tensors)
        for name, tensor in self._network.state_dict(keep_vars=True).items():
            if name in found and id(tensor) in slots:
                for axis, positions in enumerate(slots[id(tensor)].on_axes(live)):
                    if positions is not None:
                        found[name] = found[name].index_select(axis, positions.to(found[name].device))
        return found

    @cached_property
    def _families(self) -> list[tuple[np.ndarray, int]]:
        """Groups that are made by the same convolutions: their ids, and how many filters each gives to a layer at least."""
        filters, layers = self._made_by
        families: dict[tuple, list[int]] = {}
        for group in np.flatnonzero(self._prunable).tolist():
            families.setdefault((layers[group], filters[group]), []).append(group)
        in_layer = [np.bincount(self._traced[layer.outputs], minlength=len(self._gone)) for layer in self._convolutions().values()]
        return [(np.array(ids), math.gcd(*(int(count[ids[0]]) for count in in_layer))) for ids in families.values()]

    def _to_die(self, gone: np.ndarray, multiple: int) -> np.ndarray:
        """Which of the groups that are gone are stored: the last of each family, as many as lack to the next multiple."""
        dead = np.zeros_like(gone)
        for ids, filters in self._families if multiple > 1 else []:
            step = multiple // math.gcd(multiple, filters)
            left = len(ids) - int(gone[ids].sum())
            lacking = min(len(ids), -(-left // step) * step) - left
            if lacking:
                dead[ids[gone[ids]][-lacking:]] = True
        return dead

    def _store(self, gone: np.ndarray, multiple: int, optimizer: torch.optim.Optimizer | None) -> None:
        """Makes the stored parameters those of the groups that are not gone, and of the dead that the multiple asks for."""
        dead = self._to_die(gone, multiple)
        before, after = ~self._gone | self._dead, ~gone | dead
        changed = before != after
        stored, cuts = list(self._stored), [None] * len(self._stored)  # cuts: positions to take; None: all of them
        for number, groups in enumerate(self._traced):
            if changed[groups].any():
                was, stays = before[groups], after[groups]
                stored[number] = groups[stays]
                take = (np.cumsum(was) - 1).clip(0)[stays]  # who comes back takes anything, and is filled with zeros
                cuts[number] = torch.from_numpy(take.astype(np.int32))  # faster in index_select than int64
        zeros = _where(stored, dead & ~self._dead) if dead.any() else [None] * len(stored)
        slots = [slot for slot in self._slots
                 if any(change is not None for change in (*slot.on_axes(cuts), *slot.on_axes(zeros)))]
        states = [optimizer.state.get(slot.tensor, {}) if optimizer else {} for slot in slots]
        for slot, state in zip(slots, states):
            self._check(slot, state)
        for parameter in self._network.parameters():
            parameter.grad = None
        for slot, state in zip(slots, states):
            if any(cut is not None for cut in slot.on_axes(cuts)):
                _cut_in_place(slot.tensor, *slot.on_axes(cuts), state)
            for value in (slot.tensor.data, *(value for value in state.values() if isinstance(value, Tensor))):
                _fill(value, slot.on_axes(zeros), 1.0 if slot.name == "running_var" else 0.0)
        self._gone, self._dead, self._stored = gone, dead, stored
        self._lists = [groups[~dead[groups]] for groups in stored] if dead.any() else stored
        for layer in self._layers.values():
            if cuts[layer.inputs] is not None or cuts[layer.outputs] is not None:
                _resize(layer.module, len(stored[layer.inputs]), len(stored[layer.outputs]))
        self._hook()

    def _hook(self) -> None:
        """Has the gradient of every weight that reads dead channels cleared there, after each backward pass."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        dead = _where(self._stored, self._dead) if self._dead.any() else []
        for slot in self._slots if dead else []:
            columns = slot.on_axes(dead)[1]
            if columns is not None and slot.tensor.requires_grad:
                clear = partial(_clear_gradient, [None, columns])
                self._hooks.append(slot.tensor.register_post_accumulate_grad_hook(clear))

    def __deepcopy__(self, memo: dict) -> ChannelGraph:
        """The graph of a copied network. Hooks are not copied with parameters, so they are made anew."""
        other = memo[id(self)] = object.__new__(ChannelGraph)
        vars(other).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items() if name != "_hooks"})
        other._hooks = []
        other._hook()
        return other

    def _check(self, slot: _Slot, state: dict) -> None:
        shape = slot.tensor.shape
        for axis, size in zip(slot.axes, shape):
            if axis is not None and len(self._stored[axis]) != size:
                raise ValueError(f"a {slot.name} has shape {tuple(shape)}, its channels are {len(self._stored[axis])}: "
                                 "the network was changed since it was traced; make a new ChannelGraph")
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != shape:
                raise ValueError(f"the optimiser's {key} of a parameter of shape {tuple(shape)} has shape "
                                 f"{tuple(value.shape)}: how to cut it is not known")

    def _checked(self, group_ids) -> np.ndarray:
        ids = np.asarray(group_ids.cpu() if isinstance(group_ids, Tensor) else group_ids)
        if ids.ndim != 1:
            raise ValueError(f"group ids: expected a flat list of integers, found an array of shape {ids.shape}")
        if len(ids) and ids.dtype.kind not in "iu":
            raise ValueError(f"group ids are integers, found {ids.dtype}")
        ids = ids.astype(np.int64)
        if wrong := [i for i in ids.tolist() if not (0 <= i < len(self._prunable) and self._prunable[i])]:
            raise ValueError(f"no removable group has the id {str(wrong)[1:-1]}; ChannelGraph.groups lists those that "
                             "may leave (the network's inputs, outputs and kept layers stay)")
        if wrong := ids[self._gone[ids]].tolist():
            raise ValueError(f"already removed: group {str(wrong)[1:-1]}")
        return ids


def _checked_multiple(multiple: int) -> int:
    if multiple < 1:
        raise ValueError(f"multiple: expected a whole number of at least 1, found {multiple}")
    return multiple
