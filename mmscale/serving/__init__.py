"""An HTTP server with OpenAI's completions interface in front of any solver."""
