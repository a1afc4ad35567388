"""Pictures for the matting network: cut-outs over random backgrounds, made on the device, with their alpha as target.

RGBA views ─ place (size, position, turn) ─▶ foreground, alpha ─┐
plain · gradient · noise · stripes · other objects · room ──────┴▶ shadow ▶ composite ▶ blur, noise, tone ▶ picture
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

SHARES = (0.3, 0.14, 0.18, 0.1, 0.12, 0.16)  # of the six kinds of background


def compose(views: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pictures of given cut-outs.

    Args:
        views: uint8 [B, S, S, 4], not premultiplied, the object touching the borders of the square.
        size: side of the pictures.

    Returns:
        Pictures float32 [B, 3, size, size] and their alpha [B, 1, size, size], both in [0, 1].
    """
    rgba = views.permute(0, 3, 1, 2).float() / 255
    premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)
    placed = place(premultiplied, size)
    colour, alpha = placed[:, :3], placed[:, 3:]
    mean = colour.sum((2, 3)) / alpha.sum((2, 3)).clamp_min(1)
    ground = shadowed(background(premultiplied, mean, size), alpha)
    return photographed(colour + (1 - alpha) * ground), alpha


def place(rgba: torch.Tensor, size: int) -> torch.Tensor:
    """The cut-outs at 30 to 95 % of the frame, anywhere in it, turned a little; a few stick out. [B, 4, size, size]."""
    count, device = len(rgba), rgba.device
    share = uniform(count, 0.3, 0.95, device=device)
    slack = (1 - share).clamp_min(0.02)
    slack = torch.where(torch.rand(count, device=device) < 0.08, slack + 0.3, slack)
    centre = slack[:, None] * uniform(count, -1, 1, columns=2, device=device)
    centre = centre * torch.rand(count, 1, device=device).sqrt()
    angle = math.radians(12) * torch.randn(count, device=device) * (torch.rand(count, device=device) < 0.4)
    cos, sin = angle.cos() / share, angle.sin() / share
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 1] = cos, -sin
    theta[:, 1, 0], theta[:, 1, 1] = sin, cos
    theta[:, :, 2] = -(theta[:, :, :2] @ centre[:, :, None])[:, :, 0]
    grid = F.affine_grid(theta, [count, 4, size, size], align_corners=False)
    small = F.interpolate(rgba, scale_factor=0.5, mode="area") if rgba.shape[-1] > size else rgba
    return F.grid_sample(small, grid, align_corners=False).clamp(0, 1)


def uniform(count: int, low: float, high: float, *, columns: int = 0, device: torch.device) -> torch.Tensor:
    """Uniform random numbers [count], or [count, columns]."""
    shape = (count, columns) if columns else (count,)
    return low + (high - low) * torch.rand(shape, device=device)


def colours(mean: torch.Tensor) -> torch.Tensor:
    """Random colours [B, 3, 1, 1]: greys, whites, anything, or close to the object's mean colour [B, 3]."""
    count, device = len(mean), mean.device
    anything = torch.rand(count, 3, device=device)
    grey = torch.rand(count, 1, device=device).expand(-1, 3) + 0.03 * torch.randn(count, 3, device=device)
    bright = 1 - 0.1 * torch.rand(count, 1, device=device).square().expand(-1, 3)
    close = mean + 0.12 * torch.randn(count, 3, device=device)
    kinds = torch.stack([anything, grey, bright, close])
    chosen = torch.multinomial(torch.tensor([0.4, 0.2, 0.2, 0.2], device=device), count, replacement=True)
    return kinds[chosen, torch.arange(count, device=device)].clamp(0, 1)[:, :, None, None]


def background(rgba: torch.Tensor, mean: torch.Tensor, size: int) -> torch.Tensor:
    """One of six kinds a picture, [B, 3, size, size]; `rgba` are premultiplied views that lend their texture."""
    count, device = len(rgba), rgba.device
    first, second = colours(mean), colours(mean)
    y, x = ramp(size, device)
    direction = uniform(count, 0, 2 * math.pi, device=device)[:, None, None, None]
    along = x * direction.cos() + y * direction.sin()
    kinds = [
        first.expand(-1, -1, size, size),
        mix(first, second, torch.sigmoid(along * uniform(count, 1, 4, device=device)[:, None, None, None])),
        mix(first, second, noise(count, size, device)),
        stripes(first, second, along),
        borrowed(rgba, first, size),
        room(first, second, count, size, device),
    ]
    chosen = torch.multinomial(torch.tensor(SHARES, device=device), count, replacement=True)
    return torch.stack(kinds)[chosen, torch.arange(count, device=device)]


def ramp(size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns from -1 to 1, [1, 1, size, 1] and [1, 1, 1, size]."""
    line = torch.linspace(-1, 1, size, device=device)
    return line.view(1, 1, -1, 1), line.view(1, 1, 1, -1)


def mix(first: torch.Tensor, second: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Linear blend of two colours."""
    return first + (second - first) * share


def noise(count: int, size: int, device: torch.device) -> torch.Tensor:
    """Smooth noise of random octaves in [0, 1], [B, 1, size, size]."""
    total = torch.zeros(count, 1, size, size, device=device)
    for cells in (3, 6, 12, 24, 48, 96):
        octave = F.interpolate(torch.randn(count, 1, cells, cells, device=device), size=(size, size), mode="bicubic")
        total = total + octave * torch.rand(count, 1, 1, 1, device=device).square()
    return torch.sigmoid(2 * total / total.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3))


def stripes(first: torch.Tensor, second: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """Stripes across a direction `along` [B, 1, S, S], from soft to sharp."""
    count, device = len(along), along.device
    frequency = uniform(count, 4, 40, device=device)[:, None, None, None]
    sharpness = uniform(count, 1, 20, device=device)[:, None, None, None]
    return mix(first, second, torch.sigmoid(sharpness * torch.sin(frequency * along)))


def borrowed(rgba: torch.Tensor, ground: torch.Tensor, size: int) -> torch.Tensor:
    """Large blurred pieces of the batch's other objects."""
    count, device = len(rgba), rgba.device
    other = rgba.roll(1, dims=0)
    theta = torch.zeros(count, 2, 3, device=device)
    zoom = uniform(count, 0.2, 0.7, device=device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = uniform(count, -0.4, 0.4, columns=2, device=device)
    grid = F.affine_grid(theta, [count, 4, size, size], align_corners=False)
    piece = F.grid_sample(other, grid, align_corners=False)
    picture = piece[:, :3] + (1 - piece[:, 3:]) * ground
    return F.interpolate(F.avg_pool2d(picture, 4), size=(size, size), mode="bilinear")


def room(first: torch.Tensor, second: torch.Tensor, count: int, size: int, device: torch.device) -> torch.Tensor:
    """A wall above a table or floor, each shaded a little, with some grain."""
    y, x = ramp(size, device)
    horizon = uniform(count, -0.3, 0.8, device=device)[:, None, None, None]
    softness = torch.exp(uniform(count, 1, 5, device=device))[:, None, None, None]
    shade = 1 + 0.25 * x * uniform(count, -1, 1, device=device)[:, None, None, None]
    grain = 1 + 0.15 * (noise(count, size, device) - 0.5)
    return (mix(first, second, torch.sigmoid((y - horizon) * softness)) * shade * grain).clamp(0, 1)


def blurred(picture: torch.Tensor, radius: float) -> torch.Tensor:
    """Gaussian blur with standard deviation `radius` pixels."""
    reach = max(int(3 * radius), 1)
    line = torch.arange(-reach, reach + 1, device=picture.device, dtype=picture.dtype)
    kernel = torch.exp(-0.5 * (line / radius).square())
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(picture.shape[1], -1, -1, -1)
    padded = F.pad(picture, (reach, reach, reach, reach), mode="replicate")
    wide = F.conv2d(padded, kernel, groups=picture.shape[1])
    return F.conv2d(wide, kernel.transpose(2, 3), groups=picture.shape[1])


def shadowed(ground: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Darken the background of half of the pictures by a soft shadow of the object, shifted and flattened."""
    count, device, size = len(alpha), alpha.device, alpha.shape[-1]
    theta = torch.zeros(count, 2, 3, device=device)
    flat = uniform(count, 1, 4, device=device)
    theta[:, 0, 0] = uniform(count, 0.8, 1.1, device=device)
    theta[:, 0, 1] = uniform(count, -0.4, 0.4, device=device)
    theta[:, 1, 1] = flat
    theta[:, 0, 2] = uniform(count, -0.2, 0.2, device=device)
    theta[:, 1, 2] = -uniform(count, 0.0, 0.5, device=device) * (flat - 0.6)
    grid = F.affine_grid(theta, [count, 1, size, size], align_corners=False)
    cast = F.grid_sample(alpha, grid, align_corners=False)
    soft = torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.5, blurred(cast, 2.5), blurred(cast, 8.0))
    strength = uniform(count, 0.1, 0.7, device=device) * (torch.rand(count, device=device) < 0.5)
    return ground * (1 - strength[:, None, None, None] * soft)


def photographed(picture: torch.Tensor) -> torch.Tensor:
    """Tone, softness, blocks and grain of a stored photograph."""
    count, device, size = len(picture), picture.device, picture.shape[-1]

    def some(share: float) -> torch.Tensor:
        return torch.rand(count, 1, 1, 1, device=device) < share

    gamma = torch.exp(0.2 * torch.randn(count, 1, 1, 1, device=device))
    picture = picture.clamp(1e-3, 1) ** gamma
    tint = 1 + 0.06 * torch.randn(count, 3, 1, 1, device=device)
    picture = torch.where(some(0.3), picture * tint, picture)
    picture = torch.where(some(0.3), blurred(picture, 0.8), picture)
    coarse = F.interpolate(F.avg_pool2d(picture, 2), size=(size, size), mode="bilinear")
    picture = torch.where(some(0.15), coarse, picture)
    levels = 255 / (4 + 12 * torch.rand(count, 1, 1, 1, device=device))
    picture = torch.where(some(0.15), (picture * levels).round() / levels, picture)
    grain = 0.03 * torch.rand(count, 1, 1, 1, device=device) * torch.randn_like(picture)
    return torch.where(some(0.5), picture + grain, picture).clamp(0, 1)
