"""Makes a larger model of a pocket base that says exactly what the base says.

In: a loaded model of the Llama family (Qwen3 among it), more layers, a wider inner layer. Out: a new model of the same logits,
with room to learn what the small one has none for. New layers are copies of those below them whose outputs are zero; new inner
units read at random and write nothing yet (Net2Net, Chen et al. 2016, with zeros instead of split weights). It trains nothing.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from duomem.errors import UsageError

_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
"""What a layer adds to the stream: zero in a new layer."""


def sources(old: int, new: int) -> list[tuple[int, bool]]:
    """For each of `new` layers the old layer that it comes from, and whether it is that layer itself; the new ones are spread
    evenly. Raises `UsageError` where there would be fewer than before."""
    if new < old:
        raise UsageError(f"A model of {old} layers cannot be grown to {new}.")
    plan = []
    for layer in range(new):
        source = layer * old // new
        plan.append((source, layer == math.ceil(source * new / old)))
    return plan


def grow(model: Any, layers: int, inner: int, seed: int) -> Any:
    """A model of `layers` layers and `inner` inner units with the logits of `model`, which stays as it is.

    The same seed gives the same weights. Raises `UsageError` where either number is smaller than before.
    """
    import torch

    config = copy.deepcopy(model.config)
    if inner < config.intermediate_size:
        raise UsageError(f"A model of {config.intermediate_size} inner units cannot be grown to {inner}.")
    plan = sources(config.num_hidden_layers, layers)
    config.num_hidden_layers, config.intermediate_size = layers, inner
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[source] for source, _ in plan]
    grown = type(model)(config).to(model.dtype)
    generator = torch.Generator().manual_seed(seed)
    old = model.state_dict()
    new = {name: weight for name, weight in old.items() if not name.startswith("model.layers.")}
    for layer, (source, itself) in enumerate(plan):
        prefix = f"model.layers.{source}."
        for name, weight in ((name.removeprefix(prefix), weight) for name, weight in old.items() if name.startswith(prefix)):
            wide = _widened(name, weight, inner, generator)
            new[f"model.layers.{layer}.{name}"] = wide if itself or name not in _OUTPUTS else torch.zeros_like(wide)
    grown.load_state_dict(new)
    return grown.eval()


def _widened(name: str, weight: Any, inner: int, generator: Any) -> Any:
    """A layer's weight with as many inner units as the new model has: what the added ones read is drawn as widely as the
    old ones, what they write is zero."""
    import torch

    if name in ("mlp.gate_proj.weight", "mlp.up_proj.weight"):
        shape = (inner - weight.shape[0], weight.shape[1])
        drawn = torch.randn(shape, generator=generator).to(weight.dtype) * weight.std()
        return torch.cat([weight, drawn])
    if name == "mlp.down_proj.weight":
        return torch.cat([weight, weight.new_zeros(weight.shape[0], inner - weight.shape[1])], dim=1)
    return weight.clone()
