"""Options of the commands: a dataclass for each command, from which its parser is derived.

Nothing here imports torch, which takes seconds: help and mistakes are told at once.
"""
