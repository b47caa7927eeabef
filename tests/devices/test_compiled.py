"""What is read from a compiled program's text, on a text short enough to count by hand."""

import pytest

from cicjax.devices import ahead, compiled

LINES = """HloModule jit_step, is_scheduled=true

FileNames
1 "/somewhere/cicjax/model/layout.py"
2 "/somewhere/cicjax/model/head.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=5 end_line=5 column=1 end_column=2}
2 {file_name_id=2 function_name_id=1 line=6 end_line=6 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}

%layer (p: (s32[], f32[8,64])) -> (s32[], f32[8,64]) {
  %p = (s32[], f32[8,64]{1,0}) parameter(0)
  %fusion.1 = f32[8,64]{1,0:T(8,128)} fusion(%p), kind=kLoop, calls=%f, CYCLES(10)
  %fusion.2 = f32[8,64]{1,0:T(8,128)} fusion(%p), kind=kLoop, calls=%f, CYCLES(5)
  ROOT %t = (s32[], f32[8,64]{1,0}) tuple(%p, %fusion.2)
}

%below (p: (s32[], f32[8,64])) -> pred[] {
  %p = (s32[], f32[8,64]{1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(24)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%chunk (p: (s32[], s32[])) -> (s32[], s32[]) {
  %p = (s32[], s32[]) parameter(0)
  ROOT %fusion.3 = (s32[], s32[]) fusion(%p), kind=kLoop, calls=%f, CYCLES(100)
}

%more (p: (s32[], s32[])) -> pred[] {
  %p = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=1
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[8,64]) -> f32[8,64] {
  %x = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  %bits = u16[8,64]{1,0:T(8,128)(2,1)} bitcast-convert(%x)
  %scores = f32[8,2048,4096]{2,1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%f, CYCLES(1000)
  %ordered = u32[8,64]{1,0:T(8,128)} bitcast-convert(%x)
  %rare = f32[8] conditional(%x, %x, %x), branch_computations={%chunk, %layer}
  %all-reduce.1 = f32[] all-reduce(%x), replica_groups={}
  %while.1 = (s32[], f32[8,64]{1,0}) while(%x), condition=%below, body=%layer, FRAME(1)
  %while.2 = (s32[], s32[]) while(%x), condition=%more, body=%chunk, FRAME(2)
  ROOT %while.3 = (s32[], s32[]) while(%x), condition=%more, body=%chunk, FRAME(2)
}
"""


@pytest.fixture
def text() -> str:
    lines = LINES
    for number in (1, 2):
        lines = lines.replace(f"FRAME({number})", f'metadata={{op_name="a/while" stack_frame_id={number}}}')
    for number in (5, 10, 100, 1000):
        lines = lines.replace(
            f"CYCLES({number})",
            f'backend_config={{"window_config":{{"estimated_cycles":"{number}"}}}}',
        )
    return lines


def test_loops_count_as_often_as_they_run(text):
    layers = 24 * (10 + 5)
    layers += 15  # and the cheaper branch
    assert compiled.cycles(text, {}) == 1000 + layers + 100 + 100
    assert compiled.cycles(text, {"head": [3, 0]}) == 1000 + layers + 300
    assert compiled.cycles(text, {"head": [2.5]}) == 1000 + layers + 500
    assert compiled.cycles(text, {"blocks": [7]}) == compiled.cycles(text, {})


def test_kernels_are_what_is_launched(text):
    # Two bitcast-converts, fusion and all-reduce; 24 times two fusions and a comparison; a fusion and one
    # more; and a branch with one.
    assert compiled.kernels(text, {"head": [4, 0]}) == 4 + 24 * 3 + 4 * 2 + 1


def test_arrays_that_should_not_be_there_are_seen(text):
    assert compiled.large_bitcasts(text, elements=512) == 1
    assert compiled.large_bitcasts(text, elements=513) == 0
    assert compiled.square_arrays(text, length=2048) == 1
    assert compiled.square_arrays(text, length=4096) == 0
    assert compiled.collectives(text) == {"all-reduce": 1}


def test_the_facts_of_a_card_are_text_of_a_message():
    facts = ahead.gpu_facts()
    assert facts.count("{") == facts.count("}") == 3
    assert "  core_count: 132\n" in facts and '  name: "NVIDIA H100 80GB HBM3"\n' in facts


def test_a_compiler_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setattr(ahead.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for name, extra in (("v5e:2x2", "aot-tpu"), ("h100", "aot-cuda")):
        with pytest.raises(ahead.BadInput, match=extra) as error:
            ahead.get_ready(ahead.TARGETS[name])
        assert "\n" not in str(error.value)
