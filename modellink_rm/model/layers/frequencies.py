"""The frequencies of rotary angles, and their scalings.

Operations and their order are those of transformers 5 (modeling_rope_utils.py), so that the angles are
equal to the last bit.
"""

import math

import torch
from torch import Tensor

from modellink_rm.model.rope import RopeScaling


def frequencies(
    base: float, num_channels: int, scaling: RopeScaling | None = None, *, length: int = 1
) -> Tensor:
    """Angles per position, float32 [num_channels / 2] on the CPU.

    Args:
        num_channels: rotated channels of a head.
        length: tokens of the sequence, for scalings that depend on it.
    """
    if scaling is None:
        return 1.0 / _wavelengths(base, num_channels)
    if scaling.kind == "linear":
        return 1.0 / _wavelengths(base, num_channels) / scaling.factor
    if scaling.kind == "dynamic":
        return 1.0 / _wavelengths(_dynamic_base(base, num_channels, scaling, length), num_channels)
    if scaling.kind == "longrope":
        is_long = length > scaling.original_positions
        factors = torch.tensor(scaling.long_factors if is_long else scaling.short_factors)
        return 1.0 / (factors * _wavelengths(base, num_channels))
    if scaling.kind == "llama3":
        return _llama3(1.0 / _wavelengths(base, num_channels), scaling)
    return _yarn(base, num_channels, scaling)


def _wavelengths(base: float | Tensor, num_channels: int) -> Tensor:
    """base^(2i/d), positions per radian."""
    wavelengths: Tensor = base ** (torch.arange(0, num_channels, 2, dtype=torch.float32) / num_channels)
    return wavelengths


def _dynamic_base(base: float, num_channels: int, scaling: RopeScaling, length: int) -> float | Tensor:
    """The base for sequences of `length` tokens."""
    if length <= scaling.original_positions:
        return base
    stretch = scaling.factor * torch.tensor(length) / scaling.original_positions - (scaling.factor - 1)
    return base * stretch ** (num_channels / (num_channels - 2))


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Low frequencies divided by the factor, high ones as they are, those between interpolated."""
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    wavelengths = 2 * math.pi / plain
    is_low = wavelengths > scaling.original_positions / low
    is_high = wavelengths < scaling.original_positions / high
    scaled = torch.where(is_low, plain / scaling.factor, plain)
    smooth = (scaling.original_positions / wavelengths - low) / (high - low)
    between = (1 - smooth) * scaled / scaling.factor + smooth * scaled
    return torch.where(is_low | is_high, scaled, between)


def _yarn(base: float, num_channels: int, scaling: RopeScaling) -> Tensor:
    """Channels that turn seldom divided by the factor, those that turn often as they are."""
    wavelengths = _wavelengths(base, num_channels)
    interpolated, plain = 1.0 / (scaling.factor * wavelengths), 1.0 / wavelengths
    low, high = _yarn_bounds(base, num_channels, scaling)
    ramp = (torch.arange(num_channels // 2, dtype=torch.float32) - low) / (high - low)
    share = 1 - ramp.clamp(0, 1)
    return interpolated * (1 - share) + plain * share


def _yarn_bounds(base: float, num_channels: int, scaling: RopeScaling) -> tuple[float, float]:
    """The channels between which frequencies are interpolated."""

    def channel(num_turns: float) -> float:
        turn = scaling.original_positions / (num_turns * 2 * math.pi)
        return (num_channels * math.log(turn)) / (2 * math.log(base))

    low, high = channel(scaling.beta_fast), channel(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, num_channels - 1)
    return low, high + 0.001 if low == high else high
