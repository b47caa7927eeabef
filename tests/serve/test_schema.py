"""Whatever the OpenAPI document allows, and what it does not, is answered without a fault of ours."""

import pytest
import schemathesis
import tiny_qwen2
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from stand_in import serving

from cicjax.agent.continual import Agent
from cicjax.agent.settings import AgentSettings
from cicjax.model.config import LoRAConfig


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    toy = tmp_path_factory.mktemp("toy")
    tiny_qwen2.write(toy, seed=3)
    agents = AgentSettings(format="chatml", lora=LoRAConfig(rank=4, alpha=8.0), max_new_tokens=16)
    home = tmp_path_factory.mktemp("home") / "home"
    with Agent.open(home, str(toy), agents) as agent, serving(agent, home) as (address, _):
        # A stream of events has no end; what it takes is tried elsewhere.
        yield schemathesis.openapi.from_url(f"{address}/openapi.json").exclude(path="/v1/events")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_is_a_fault_of_the_server(document, mode):
    asked = set()
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy(generation_mode=mode))
        def answered(case):
            if case.query and "wait" in case.query:
                case.query["wait"] = 0
            answer = case.call_and_validate(checks=[not_a_server_error], timeout=60)
            if answer.status_code >= 400 and case.path != "/readyz":
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            asked.add((case.method, case.path))

        try:
            answered()
        except Exception as error:
            if type(error).__name__ != "Unsatisfiable":  # an operation that nothing can be wrong with
                raise
    assert len(asked) >= 10
