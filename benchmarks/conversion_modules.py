"""Public modules that the derivation of symmetries is tried on, beside timm and transformers.

Layers of torch, layers of PyG (graph networks as input networks), networks out of other packages,
and in small the forms that users' files have: outputs in objects, caches, experts, scans, masks,
pooling indices. A package that is not installed has rows that say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from conversion_models import Case
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["module_cases"]

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def module_cases() -> Iterator[Case]:
    """Iterate over the modules of every kind."""
    for library, made in (
        ("torch", TORCH), ("torch_geometric", GRAPHS), ("packages", PACKAGES), ("forms", FORMS),
    ):
        for family, make in made.items():

            def evaluated(make: Callable[[], Made] = make) -> Made:
                module, args, kwargs = make()
                return module.eval(), args, kwargs

            yield Case(library, family, family, evaluated)


def _of(make: Callable[[], nn.Module], *shapes: tuple[int, ...]) -> Callable[[], Made]:
    """Return what makes a module and standard normal inputs of these shapes."""
    return lambda: (make(), tuple(torch.randn(shape) for shape in shapes), {})


class Tokens(nn.Module):
    """A module on embedded tokens, with a head: what a layer alone would leave as outputs."""

    def __init__(self, layer: nn.Module, width: int, further: int = 0) -> None:
        super().__init__()
        self.inside, self.layer, self.head = nn.Linear(6, width), layer, nn.Linear(width, 3)
        self.further = further

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inside(x)
        found = self.layer(*[hidden] * (1 + self.further))
        result: Tensor = self.head(found[0] if isinstance(found, tuple) else found)
        return result


def _tokens(layer: Callable[[], nn.Module], width: int = 16, further: int = 0) -> Any:
    return _of(lambda: Tokens(layer(), width, further), (2, 5, 6))


TORCH: dict[str, Callable[[], Made]] = {
    "LSTM": _of(lambda: nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True), (2, 5, 6)),
    "LSTM with projections": _of(lambda: nn.LSTM(6, 8, proj_size=4, batch_first=True), (2, 5, 6)),
    "GRU": _tokens(lambda: nn.GRU(16, 16, 2, batch_first=True)),
    "RNN": _tokens(lambda: nn.RNN(16, 16, batch_first=True, nonlinearity="relu")),
    "MultiheadAttention": _tokens(lambda: nn.MultiheadAttention(16, 4, batch_first=True), 16, 2),
    "TransformerEncoder": _tokens(lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 2, enable_nested_tensor=False)),
    "TransformerEncoder, norm first": _tokens(lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 24, activation="gelu", batch_first=True,
                                   norm_first=True), 2, enable_nested_tensor=False)),
    "Transformer": _of(lambda: nn.Transformer(16, 4, 2, 2, 24, batch_first=True),
                       (2, 5, 16), (2, 4, 16)),
    "EmbeddingBag": lambda: (
        nn.Sequential(nn.EmbeddingBag(20, 8), nn.Linear(8, 3)), (torch.arange(10).view(2, 5),), {}),
    "Bilinear": _of(lambda: nn.Bilinear(5, 6, 4), (3, 5), (3, 6)),
    "ConvTranspose2d": _of(lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, groups=1), nn.PReLU(8), nn.ConvTranspose2d(8, 4, 3, stride=2),
        nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 2, 1)), (1, 3, 8, 8)),
    "Conv3d": _of(lambda: nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.AdaptiveAvgPool3d(1),
        nn.Flatten(), nn.Linear(8, 3)), (1, 2, 4, 4, 4)),
    "LocalResponseNorm": _of(lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.LocalResponseNorm(3), nn.Conv2d(8, 2, 1)), (1, 3, 8, 8)),
    "parametrizations": _of(lambda: nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(),
        torch.nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), nn.Tanh(),
        nn.Linear(8, 3)), (4, 6)),
}  # fmt: skip


class OnGraph(nn.Module):
    """Two graph layers and a head: a graph network as input network."""

    def __init__(self, make: Callable[[int, int], nn.Module], width: int = 8) -> None:
        super().__init__()
        self.one, self.two = make(6, width), make(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        result: Tensor = self.head(self.two(self.one(x, edge_index).relu(), edge_index))
        return result


def _on_graph(name: str, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        from torch_geometric import nn as layers

        ring = torch.arange(7)
        edges = torch.cat([torch.stack([ring, ring.roll(k)]) for k in (1, 3)], dim=1)
        kind = getattr(layers, name)
        if name in ("GINConv", "EdgeConv"):
            double = 1 + (name == "EdgeConv")

            def layer(i: int, o: int) -> nn.Module:
                mlp = nn.Sequential(nn.Linear(double * i, 12), nn.ReLU(), nn.Linear(12, o))
                made: nn.Module = kind(mlp, **options)
                return made
        else:
            def layer(i: int, o: int) -> nn.Module:
                made: nn.Module = kind(i, o, **options)
                return made
        return OnGraph(layer), (torch.randn(7, 6), edges), {}

    return make


GRAPHS: dict[str, Callable[[], Made]] = {
    **{name: _on_graph(name) for name in (
        "GCNConv", "GraphConv", "GINConv", "EdgeConv", "LEConv", "TransformerConv", "GATv2Conv",
        "GENConv", "MFConv", "ClusterGCNConv", "TAGConv", "ARMAConv", "SGConv", "ResGatedGraphConv",
    )},
    "GATConv": _on_graph("GATConv", heads=2, concat=False),
    "ChebConv": _on_graph("ChebConv", K=3),
    "FeaStConv": _on_graph("FeaStConv", heads=2),
    **{f"SAGEConv, {how}": _on_graph("SAGEConv", aggr=how)
       for how in ("mean", "max", "median", "std", "softmax")},
    "PNAConv": _on_graph("PNAConv", aggregators=["mean", "max", "std"],
                         scalers=["identity", "amplification"], deg=torch.tensor([0, 0, 7])),
}  # fmt: skip


def _vit_pytorch(module: str, name: str, image: int = 32, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        import importlib

        kind = getattr(importlib.import_module(f"vit_pytorch.{module}"), name)
        return kind(**options), (torch.randn(1, 3, image, image),), {}

    return make


_VIT: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 16, "depth": 2, "heads": 2,
    "mlp_dim": 24,
}


def _segmentation(name: str) -> Callable[[], Made]:
    def make() -> Made:
        import segmentation_models_pytorch as package

        model = getattr(package, name)("resnet18", encoder_weights=None, classes=3)
        return model, (torch.randn(1, 3, 64, 64),), {}

    return make


def _monai(name: str, shape: tuple[int, ...], **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        from monai.networks import nets

        return getattr(nets, name)(**options), (torch.randn(shape),), {}

    return make


def _facenet(part: str) -> Callable[[], Made]:
    def make() -> Made:
        if part == "InceptionResnetV1":
            from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1

            return InceptionResnetV1(classify=True, num_classes=5), (torch.randn(1, 3, 96, 96),), {}
        from facenet_pytorch.models import mtcnn

        size = {"PNet": 24, "RNet": 24, "ONet": 48}[part]
        return getattr(mtcnn, part)(pretrained=False), (torch.randn(1, 3, size, size),), {}

    return make


def _siren() -> Made:
    from siren_pytorch import SirenNet

    return SirenNet(2, 16, 3, num_layers=3), (torch.rand(5, 2),), {}


def _kan() -> Made:
    from kan import KAN

    model = KAN(width=[2, 5, 1], auto_save=False)
    return model, (torch.rand(6, 2),), {}


def _egnn() -> Made:
    from egnn_pytorch import EGNN

    return EGNN(dim=16), (torch.randn(1, 6, 16), torch.randn(1, 6, 3)), {}


def _tcn() -> Made:
    from pytorch_tcn import TCN

    return TCN(4, [8, 8]), (torch.randn(1, 4, 20),), {}


_2D: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}

PACKAGES: dict[str, Callable[[], Made]] = {
    "vit-pytorch ViT": _vit_pytorch("vit", "ViT", **_VIT),
    "vit-pytorch SimpleViT": _vit_pytorch("simple_vit", "SimpleViT", **_VIT),
    "vit-pytorch CaiT": _vit_pytorch("cait", "CaiT", cls_depth=1, **_VIT),
    "vit-pytorch DeepViT": _vit_pytorch("deepvit", "DeepViT", **_VIT),
    "vit-pytorch ParallelViT": _vit_pytorch("parallel_vit", "ViT", num_parallel_branches=2, **_VIT),
    "vit-pytorch ViT with patch merger": _vit_pytorch(
        "vit_with_patch_merger", "ViT", patch_merge_layer=1, **_VIT),
    "vit-pytorch NormalizedViT": _vit_pytorch("normalized_vit", "nViT", **_VIT),
    "vit-pytorch RvT": _vit_pytorch("rvt", "RvT", **_VIT),
    **{f"smp {name}": _segmentation(name) for name in ("Unet", "UnetPlusPlus", "FPN", "Linknet")},
    "smp DeepLabV3": _segmentation("DeepLabV3"),
    "monai UNet": _monai("UNet", (1, 1, 32, 32), channels=(4, 8, 16), strides=(2, 2),
                         num_res_units=2, **_2D),
    "monai AttentionUnet": _monai("AttentionUnet", (1, 1, 32, 32), channels=(4, 8, 16),
                                  strides=(2, 2), **_2D),
    "monai SegResNet": _monai("SegResNet", (1, 1, 32, 32), init_filters=8, **_2D),
    "monai UNETR": _monai("UNETR", (1, 1, 32, 32), img_size=32, feature_size=4, hidden_size=24,
                          mlp_dim=32, num_heads=2, **_2D),
    "monai DynUNet": _monai("DynUNet", (1, 1, 32, 32), kernel_size=[3, 3, 3], strides=[1, 2, 2],
                            upsample_kernel_size=[2, 2], **_2D),
    "monai VNet": _monai("VNet", (1, 1, 32, 32), dropout_prob_down=0.5,
                         dropout_prob_up=(0.5, 0.5), **_2D),
    **{f"facenet {part}": _facenet(part) for part in ("PNet", "RNet", "ONet", "InceptionResnetV1")},
    "siren-pytorch": _siren, "pykan": _kan, "egnn-pytorch": _egnn, "pytorch-tcn": _tcn,
}  # fmt: skip


# -- forms that users' files have ------------------------------------------------------------------


@dataclass
class Prediction:
    """What a forward of a user's class returns."""

    logits: Tensor
    hidden: Any


class InObjects(nn.Module):
    """Returns an object within an object, a number and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.value = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Prediction, int, None]:
        hidden = self.one(x).relu()
        return Prediction(self.two(hidden), SimpleNamespace(v=self.value(hidden))), 3, None


class Cached(nn.Module):
    """Writes keys and values into a cache that is a buffer, and reads what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 8) for _ in range(3))
        self.out = nn.Linear(8, 3)
        self.register_buffer("keys", torch.zeros(2, 12, 8), persistent=False)
        self.register_buffer("values", torch.zeros(2, 12, 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        self.keys[:, :steps], self.values[:, :steps] = self.key(x), self.value(x)
        scores = self.query(x) @ self.keys[:, :steps].transpose(1, 2)
        result: Tensor = self.out(scores.softmax(-1) @ self.values[:, :steps])
        return result


class Experts(nn.Module):
    """Sends each token to the two experts that a router likes best."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(6, experts)
        self.up = nn.Parameter(torch.randn(experts, 8, 6) * 0.4)
        self.down = nn.Parameter(torch.randn(experts, 3, 8) * 0.4)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x).softmax(-1)
        best, _ = scores.topk(2, dim=-1)
        kept = scores * (scores >= best[..., -1:])
        hidden = torch.einsum("bi,ehi->beh", x, self.up).relu()
        return torch.einsum("beh,eoh,be->bo", hidden, self.down, kept)


class Scan(nn.Module):
    """Linear attention as a scan over time, its state written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        state = x.new_zeros(x.shape[0], 8, 5)
        found = torch.empty_like(value)
        for t in range(x.shape[1]):
            state = 0.9 * state + key[:, t, :, None] * value[:, t, None]
            found[:, t] = (query[:, t, None] @ state)[:, 0]
        result: Tensor = self.out(found)
        return result


class Masked(nn.Module):
    """Assigns where a mask is set, and keeps what another says."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x).clone()
        hidden[hidden < 0] = 0.1
        result: Tensor = self.two(hidden * ((hidden >= 0) & (hidden < 1)))
        return result


class Unpooled(nn.Module):
    """An encoder and a decoder that share the indices of pooling, as SegNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled, index = F.max_pool2d(self.one(x).relu(), 2, return_indices=True)
        result: Tensor = self.out(F.max_unpool2d(self.two(pooled).relu(), index, 2))
        return result


class Memory(nn.Module):
    """Attends over learned slots that are keys and values at once."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
        self.slots = nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        slots = self.slots.expand(x.shape[0], -1, -1)
        result: Tensor = self.out(F.scaled_dot_product_attention(self.query(x), slots, slots))
        return result


FORMS: dict[str, Callable[[], Made]] = {
    "outputs in objects": _of(InObjects, (4, 6)), "cache": _of(Cached, (2, 5, 6)),
    "experts": _of(Experts, (4, 6)), "scan": _of(Scan, (2, 5, 6)), "masks": _of(Masked, (4, 6)),
    "pooling indices": _of(Unpooled, (1, 3, 8, 8)), "memory": _of(Memory, (2, 4, 6)),
}  # fmt: skip
