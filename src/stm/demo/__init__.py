"""Local web page of `stm explore` for segmenting a video and inspecting its memory.

`uploads` reads files, `segmentation_run` segments a video with one policy and returns to any frame, and
`session` holds the state of one browser tab; none of them depends on the page. `panels` draws,
`page_layout` defines the components, `event_handlers` connects them, and `server` serves the page. Only the
last three and `errors` need Gradio, the extra `[demo]`.
"""
