"""BiSeNet for face parsing (Yu et al. 2018), with the state-dict names of face-parsing.PyTorch.

``width`` scales every channel count; 64 is the published network. Letters as in
sat3d.interfaces; K is the number of labels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, cat, nn


class Logits(NamedTuple):
    """Three maps [B, K, H, W]: the fused result, and two that only serve training."""

    fused: Tensor
    stride16: Tensor
    stride32: Tensor


class ConvBNReLU(nn.Module):
    """Convolution that keeps the size, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H, W]."""
        return F.relu(self.bn(self.conv(x)))


class BasicBlock(nn.Module):
    """ResNet's two-convolution block (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(shortcut + self.bn2(self.conv2(y)))


class ResNet18(nn.Module):
    """ResNet-18 without its classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, 1)
        self.layer2 = _stage(width, 2 * width, 2)
        self.layer3 = _stage(2 * width, 4 * width, 2)
        self.layer4 = _stage(4 * width, 8 * width, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 3, H, W] to the features at strides 8, 16 and 32."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        stride8 = self.layer2(self.layer1(x))
        stride16 = self.layer3(stride8)
        return stride8, stride16, self.layer4(stride16)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))


class AttentionRefinement(nn.Module):
    """Scales each channel by a weight read off its mean (the paper's ARM)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H, W]."""
        features = self.conv(x)
        mean = features.mean((2, 3), keepdim=True)
        return features * self.bn_atten(self.conv_atten(mean)).sigmoid()


class ContextPath(nn.Module):
    """ResNet features, refined and brought back to stride 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resnet = ResNet18(width)
        self.arm16 = AttentionRefinement(4 * width, 2 * width)
        self.arm32 = AttentionRefinement(8 * width, 2 * width)
        self.conv_head32 = ConvBNReLU(2 * width, 2 * width)
        self.conv_head16 = ConvBNReLU(2 * width, 2 * width)
        self.conv_avg = ConvBNReLU(8 * width, 2 * width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 3, H, W] to: ResNet at stride 8, context at stride 8, context at stride 16."""
        stride8, stride16, stride32 = self.resnet(x)
        mean = self.conv_avg(stride32.mean((2, 3), keepdim=True))
        context32 = self.arm32(stride32) + mean
        context32 = self.conv_head32(F.interpolate(context32, stride16.shape[2:]))
        context16 = self.arm16(stride16) + context32
        context16 = self.conv_head16(F.interpolate(context16, stride8.shape[2:]))
        return stride8, context16, context32


class FeatureFusion(nn.Module):
    """Joins detail and context and re-weights the channels (the paper's FFM)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(channels, channels, 1)
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Two [B, channels / 2, H, W] to [B, channels, H, W]."""
        features = self.convblk(cat([detail, context], 1))
        mean = features.mean((2, 3), keepdim=True)
        weight = self.conv2(F.relu(self.conv1(mean))).sigmoid()
        return features * weight + features


class Head(nn.Module):
    """Features to label logits."""

    def __init__(self, inputs: int, hidden: int, labels: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inputs, hidden)
        self.conv_out = nn.Conv2d(hidden, labels, 1, bias=False)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, inputs, h, w] to [B, K, *size]; corners aligned, as the published weights expect."""
        logits = self.conv_out(self.conv(x))
        # In low precision neighbours would tie, and ties go to the first label.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.interpolate(logits, size, mode="bilinear", align_corners=True)


class BiSeNet(nn.Module):
    """Image, normalised with ImageNet's mean and deviation, to three maps of label logits.

    There is no spatial path: face-parsing takes the ResNet's stride-8 features in its place.
    """

    def __init__(self, labels: int = 19, width: int = 64) -> None:
        super().__init__()
        self.cp = ContextPath(width)
        self.ffm = FeatureFusion(4 * width)
        self.conv_out = Head(4 * width, 4 * width, labels)
        self.conv_out16 = Head(2 * width, width, labels)
        self.conv_out32 = Head(2 * width, width, labels)

    def fused(self, image: Tensor) -> Tensor:
        """As ``forward``, the first result alone, without the work for the others."""
        detail, context16, _ = self.cp(image)
        logits: Tensor = self.conv_out(
            self.ffm(detail, context16), (image.shape[2], image.shape[3])
        )
        return logits

    def forward(self, image: Tensor) -> Logits:
        """[B, 3, H, W] float to three [B, K, H, W]; H and W from 32."""
        size = (image.shape[2], image.shape[3])
        detail, context16, context32 = self.cp(image)
        return Logits(
            self.conv_out(self.ffm(detail, context16), size),
            self.conv_out16(context16, size),
            self.conv_out32(context32, size),
        )
