"""The networks of `keras.applications` in PyTorch, layer by layer; sums are modules, as zennit wants them."""

import torch
from torch import nn
from zennit.layer import Sum

VGG16 = (2, 64), (2, 128), (3, 256), (3, 512), (3, 512)
RESNETS = {"ResNet50": (3, 4, 6, 3), "ResNet101": (3, 4, 23, 3), "ResNet152": (3, 8, 36, 3)}


def network(name, image_size):
    """A network by its name.

    Raises:
        NotImplementedError: It is not written here.
    """
    if name == "VGG16":
        return vgg16(image_size)
    if name in RESNETS:
        return ResNet(RESNETS[name])
    if name == "small":
        return small(image_size)
    raise NotImplementedError(f"{name} is not written in PyTorch here")


def small(image_size):
    side = (image_size - 5) // 2 + 1
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * side**2, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def vgg16(image_size):
    layers, channels = [], 3
    for repeats, filters in VGG16:
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
            channels = filters
        layers.append(nn.MaxPool2d(2))
    features = channels * (image_size // 32) ** 2
    layers += [nn.Flatten(), nn.Linear(features, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))


def convolution(channels, filters, kernel, stride=1, padding=0):
    return nn.Conv2d(channels, filters, kernel, stride, padding), nn.BatchNorm2d(filters, 1.001e-5)


class Block(nn.Module):
    """Three convolutions beside a shortcut; the stride is that of the first convolution, as in Keras."""

    def __init__(self, channels, filters, stride, projected):
        super().__init__()
        self.shortcut = nn.Sequential(*convolution(channels, 4 * filters, 1, stride)) if projected else nn.Identity()
        self.branch = nn.Sequential(
            *convolution(channels, filters, 1, stride),
            nn.ReLU(),
            *convolution(filters, filters, 3, padding=1),
            nn.ReLU(),
            *convolution(filters, 4 * filters, 1),
        )
        self.sum = Sum()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.sum(torch.stack([self.shortcut(x), self.branch(x)], dim=-1)))


class ResNet(nn.Module):
    def __init__(self, depths):
        super().__init__()
        layers, channels = [*convolution(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
        for stage, depth in enumerate(depths):
            filters = 64 * 2**stage
            for block in range(depth):
                stride = 2 if stage and not block else 1
                layers.append(Block(channels, filters, stride, projected=not block))
                channels = 4 * filters
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))

    def forward(self, x):
        return self.layers(x)
