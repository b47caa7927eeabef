"""Without the extra `serve`, and the clients that the extra `test` brings, there is nothing here to run."""

from importlib.util import find_spec

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "httpx", "openai", "schemathesis", "playwright")
collect_ignore_glob = [] if all(map(find_spec, NEEDED)) else ["test_*.py"]
