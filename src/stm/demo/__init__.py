"""`stm explore`: a local web page on which memory is looked at.

`media` takes what visitors give, `run` segments under one policy and goes back to any frame, `session`
holds what belongs to one visitor: none of them knows the page. `shown` draws, `layout` places, `events`
connects, and `serve` is the only door.
"""
