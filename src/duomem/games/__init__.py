"""Playable ALFWorld games in the official format, made from what the `alfworld` package ships.

In: a split, a number and a seed. Out: `GameSpec` objects (`sample_game`) or game files (`write_games`) that the real engine
plays. Not here: playing them (see `duomem.envs`) and official data, which users fetch with ALFWorld's own download.
"""
