"""The student as a server: `duomem serve PATH` answers chat completions, responses and messages with memories in place.

`inject` decides what a prompt is, `student` is what is served, `engine` runs its model, `app` speaks HTTP. One request passes
through them in that order backwards: app -> inject -> engine -> app. Nothing is remembered between requests but caches.
"""
