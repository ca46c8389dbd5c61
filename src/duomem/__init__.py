"""DuoMem: one recorded log of a large agent, two distillates, one measured decision."""

__version__ = "0.1.0"
