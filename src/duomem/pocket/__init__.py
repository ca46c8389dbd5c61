"""The small models that ship with the package, and how they were made: language -> corpus -> tokenizer -> train."""
