"""The agent over HTTP: OpenAI's chat completions, feedback, versions, and a page. Needs the extra `serve`."""
