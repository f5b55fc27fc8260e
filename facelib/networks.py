"""The study's networks for 113 x 113 faces, and their descriptors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.squeezenet import Fire

from facelib.faces.crops import centre_batches, normalise
from facelib.faces.faceset import FaceSet
from facelib.storage import user_path

IMAGENET_DEVIATION = (0.229, 0.224, 0.225)  # of 0-1 values, RGB: what torchvision's weights expect to be divided by


class FaceNetwork(nn.Module):
    """A trunk of convolutions, global average pooling, and a linear softmax classifier of the training subjects.

    Images are (images, 3, size, size), 0-255 values less the RGB means. The descriptor is the pooled trunk, as the
    papers take it (PAPERS: the layer next to the classifier).
    """

    def __init__(self, name: str, features: nn.Module, descriptor: int, subjects: int, image_size: int, stem_stride: int):
        super().__init__()
        self.config = {"name": name, "subjects": subjects, "image_size": image_size, "stem_stride": stem_stride}
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.classifier = nn.Linear(descriptor, subjects)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (images, subjects)."""
        return self.classifier(self.embed(images))

    def embed(self, images: Tensor) -> Tensor:
        """Descriptors, (images, descriptor), not normalised."""
        return self.flatten(self.pool(self.features(images)))


def squeezenet(stem_stride: int) -> nn.Module:
    """SqueezeNet 1.1's trunk with batch normalisation between every convolution and its ReLU.

    conv10 keeps its 1000 filters: their pooled maps are the descriptor. The convolutions' biases are left out, since
    the normalisation after them takes their part; no dropout, since the normalisation regularises.
    """
    plain = torchvision.models.squeezenet1_1(weights=None)
    plain.features[0].stride = (stem_stride, stem_stride)
    for module in plain.modules():
        if isinstance(module, Fire):
            module.squeeze, module.expand1x1, module.expand3x3 = (
                normalised(module.squeeze), normalised(module.expand1x1), normalised(module.expand3x3))
    trunk = nn.Sequential()
    for index, module in enumerate(plain.features):
        if index == 0:
            trunk.add_module("conv1", normalised(module))
        else:
            trunk.add_module(SQUEEZENET_LAYERS.get(index, f"layer{index}"), module)
    trunk.add_module("conv10", normalised(plain.classifier[1]))
    trunk.add_module("relu10", plain.classifier[2])
    return trunk


SQUEEZENET_LAYERS = {1: "relu1", 2: "pool1", 3: "fire2", 4: "fire3", 5: "pool3", 6: "fire4", 7: "fire5", 8: "pool5",
                     9: "fire6", 10: "fire7", 11: "fire8", 12: "fire9"}


def normalised(convolution: nn.Conv2d) -> nn.Sequential:
    """The convolution without its bias, followed by batch normalisation."""
    convolution.bias = None
    block = nn.Sequential()
    block.add_module("conv", convolution)
    block.add_module("bn", nn.BatchNorm2d(convolution.out_channels))
    return block


def mobilenetv2(stem_stride: int) -> nn.Module:
    """MobileNetV2's trunk as torchvision has it; the descriptor is its last convolution's 1280 pooled maps. No dropout."""
    trunk = torchvision.models.mobilenet_v2(weights=None).features
    trunk[0][0].stride = (stem_stride, stem_stride)
    return trunk


def resnet50(stem_stride: int) -> nn.Module:
    """ResNet50's trunk as torchvision has it; the descriptor is its last block's 2048 pooled maps.

    Without other weights every block starts as the identity (a last gamma of 0, Goyal et al., arXiv:1706.02677): started as
    torchvision does, it stays at chance at the rates that train the other two.
    """
    plain = torchvision.models.resnet50(weights=None, zero_init_residual=True)
    plain.conv1.stride = (stem_stride, stem_stride)
    trunk = nn.Sequential()
    for name, module in plain.named_children():
        if name not in ("avgpool", "fc"):
            trunk.add_module(name, module)
    return trunk


@dataclass(frozen=True)
class Architecture:
    """How a network is made, how wide its descriptor is, and how torchvision calls it and its trunk's tensors."""

    trunk: Callable[[int], nn.Module]
    descriptor: int
    torchvision_model: str
    torchvision_name: Callable[[str], str]


def _squeezenet_name(key: str) -> str:
    """torchvision's name of a tensor of ours: conv1.conv.weight is features.0.weight."""
    indices = {layer: index for index, layer in SQUEEZENET_LAYERS.items()}
    layer, rest = key.split(".", 1)
    layer = {"conv1": "features.0", "conv10": "classifier.1"}.get(layer) or f"features.{indices[layer]}"
    return f"{layer}.{rest}".replace(".conv.weight", ".weight")


ARCHITECTURES = {
    "squeezenet": Architecture(squeezenet, 1000, "squeezenet1_1", _squeezenet_name),
    "mobilenetv2": Architecture(mobilenetv2, 1280, "mobilenet_v2", lambda key: f"features.{key}"),
    "resnet50": Architecture(resnet50, 2048, "resnet50", lambda key: key),
}


def build(name: str, subjects: int, image_size: int = 113, stem_stride: int = 1) -> FaceNetwork:
    """A network with random weights (torch's generator decides them) that classifies `subjects` people.

    name: squeezenet, mobilenetv2 or resnet50. image_size: side of the input in pixels. stem_stride: stride of the first
    convolution, 1 as in the papers (open for ResNet50) or 2 as in the original, four times faster.
    Raises ValueError for an unknown name or sizes the network cannot take.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown network '{name}'; expected one of {', '.join(ARCHITECTURES)}")
    if subjects < 2:
        raise ValueError(f"a classifier needs at least 2 subjects, found {subjects}")
    if stem_stride not in (1, 2):
        raise ValueError(f"stem_stride is the first convolution's stride, 1 or 2, found {stem_stride}")
    if image_size < 32:
        raise ValueError(f"image_size is the side of the input in pixels, at least 32, found {image_size}")
    made = ARCHITECTURES[name]
    network = FaceNetwork(name, made.trunk(stem_stride), made.descriptor, subjects, image_size, stem_stride)
    return network.to(memory_format=torch.channels_last)


def load_imagenet(network: FaceNetwork, weights: str) -> None:
    """Starts the trunk from ImageNet weights in torchvision's names.

    weights: a safetensors or .pth file; a folder with one whose name starts as torchvision calls the network
    (squeezenet1_1, mobilenet_v2, resnet50); or "torchvision" to download torchvision's own. They expect 0-1 values divided
    by ImageNet's deviations; ours are 0-255. So the first convolution's weights are divided by each colour's deviation
    relative to the mean one, and the factor that is left goes into the statistics of the batch normalisation after it
    (into its weights it would make them tiny, and their first update huge). The means stay the papers'.
    Raises ValueError when the file does not hold the network's layers.
    """
    made = ARCHITECTURES[network.config["name"]]
    theirs = _read_weights(network.config["name"], weights)
    ours = {key: tensor for key, tensor in network.features.state_dict().items() if not key.endswith("num_batches_tracked")}
    chosen = {key: theirs[made.torchvision_name(key)].float() for key in ours if made.torchvision_name(key) in theirs}
    lacking = [made.torchvision_name(key) for key, tensor in ours.items() if tensor.ndim == 4 and key not in chosen]
    if lacking:
        raise ValueError(f"{weights}: expected ImageNet weights of {network.config['name']} with the tensor {lacking[0]}; "
                         f"found {', '.join(list(theirs)[:3])}, ...")
    for key, tensor in chosen.items():
        if tensor.shape != ours[key].shape:
            raise ValueError(f"{weights}: expected {made.torchvision_name(key)} of shape {tuple(ours[key].shape)}, "
                             f"found {tuple(tensor.shape)}")
    deviation = torch.tensor(IMAGENET_DEVIATION)
    stem = next(iter(ours))
    chosen[stem] = chosen[stem] * (deviation.mean() / deviation).view(1, 3, 1, 1)
    factor = 255 * deviation.mean()
    for statistic, power in (("running_mean", 1), ("running_var", 2)):
        first = next(key for key in ours if key.endswith(statistic))
        if first in chosen:
            chosen[first] = chosen[first] * factor**power
    network.features.load_state_dict(chosen, strict=False)


def weights_file(name: str, weights: str) -> Path:
    """The file of ImageNet weights that `weights` names, a file or a folder with one whose name starts as torchvision calls the
    network `name`. Raises ValueError when there is
    none, or several."""
    path, model = user_path(weights), ARCHITECTURES[name].torchvision_model
    found = [path] if path.is_file() else sorted(file for file in path.glob(f"{model}*")
                                                 if file.suffix in (".safetensors", ".pth", ".pt"))
    if len(found) != 1:
        raise ValueError(f"ImageNet weights: expected 'torchvision', a .safetensors or .pth file, or a folder with one named "
                         f"{model}...; found {', '.join(file.name for file in found) or 'none'} at {path}. Empty starts "
                         "from random weights.")
    return found[0]


def _read_weights(name: str, weights: str) -> dict[str, Tensor]:
    if weights == "torchvision":
        return torchvision.models.get_model(ARCHITECTURES[name].torchvision_model, weights="DEFAULT").state_dict()
    path = weights_file(name, weights)
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def export_onnx(network: FaceNetwork, path: str | Path) -> None:
    """Writes what makes descriptors, without the training classifier, as an ONNX file for any runtime, as on a phone.

    Input "images": (images, 3, size, size) float32, RGB of 0-255 less the means (faces.crops.RGB_MEANS), any number of
    images. Output "descriptors": (images, descriptor) float32, not normalised: those of `embed` in evaluation mode.
    Dead filters would be written as they are stored: ChannelGraph.align(1) takes them out. Networks that pruning.load
    gives have none.
    Raises ImportError when onnxscript, by which torch writes ONNX, is not installed.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise ImportError("writing ONNX files needs the package onnxscript; install it with: pip install onnxscript")
    size, training = network.config["image_size"], network.training
    example = torch.zeros(2, 3, size, size, device=next(network.parameters()).device)
    trunk = nn.Sequential(network.features, network.pool, network.flatten).eval()
    try:
        torch.onnx.export(trunk, (example,), Path(path), input_names=["images"], output_names=["descriptors"],
                          dynamic_shapes=({0: "images"},), dynamo=True, external_data=False, verbose=False)
    finally:
        network.train(training)


def descriptors(network: FaceNetwork, faces: FaceSet, batch_size: int = 64) -> np.ndarray:
    """Descriptors of every image's centre crop, (images, descriptor) float32, not normalised; in evaluation mode."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            batches = centre_batches(faces, network.config["image_size"], batch_size)
            found = [network.embed(normalise(images, device)).float().cpu().numpy()
                     for images, _ in batches]
    finally:
        network.train(training)
    return np.concatenate(found)
