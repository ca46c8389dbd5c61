"""The small models that ship with the package, and how they were made: language -> corpus -> tokenizer -> train."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
"""The folder of the shipped base model: Hugging Face format, safetensors."""
