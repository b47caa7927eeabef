"""The looks of transcripts, on screen, phone, paper and in the dark, and the line about the token under the
pointer.

`STYLE` and `SCRIPT` are for any page that holds transcripts, `PAGE_STYLE` for the page of `cicjax mask
--html` alone.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2024; --faint: #5f6870; --paper: #fff; --line: #d9dee3; --bar: #f6f8fa; --loss: #fff1c9;
  --agent: #a3106d; --teacher: #0b6b2f; --user: #0a5796; --tool: #80500a; --verifier: #5a35b5;
  --environment: #5f6870; --system: #3d4852;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e7ea; --faint: #9aa4ae; --paper: #14171a; --line: #353c43; --bar: #1c2126; --loss: #3d3412;
    --agent: #ff8ccf; --teacher: #6fd695; --user: #7dbcf5; --tool: #eebb62; --verifier: #bba4ff;
    --environment: #9aa4ae; --system: #c3ccd4;
  }
}
.by-agent { --by: var(--agent); }
.by-teacher { --by: var(--teacher); }
.by-user { --by: var(--user); }
.by-tool { --by: var(--tool); }
.by-verifier { --by: var(--verifier); }
.by-environment { --by: var(--environment); }
.by-system { --by: var(--system); }
.transcript { margin: 0 0 2rem; }
.transcript h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; break-after: avoid; }
.transcript .facts {
  color: var(--faint); font-size: .85rem; margin: .15rem 0 .5rem; overflow-wrap: anywhere;
}
.tokens { border-top: 1px solid var(--line); }
.tokens:focus-visible { outline: 2px solid var(--user); outline-offset: 3px; }
.tokens .turn {
  display: grid; grid-template-columns: 7.5rem minmax(0, 1fr); border-bottom: 1px solid var(--line);
}
.turn .who { color: var(--by); font-size: .8rem; font-weight: 600; padding: .3rem .5rem .3rem 0; }
.turn .who small { display: block; font-weight: 400; color: var(--faint); }
.turn .text {
  margin: 0; padding: .25rem .6rem; border-left: 3px solid var(--by); color: var(--by); white-space: pre-wrap;
  overflow-wrap: anywhere; unicode-bidi: plaintext;
  font: .86rem/1.75 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
}
.lines .text { padding: 0; line-height: 1.5; }
.lines .line { display: flex; gap: .7em; padding: .1rem .5rem; }
.lines .label { flex: none; color: var(--faint); }
.lines .words { min-width: 0; }
.lines .loss { background: var(--loss); }
.lines .loss .label { font-weight: 700; color: var(--ink); }
.by-agent .text { background: color-mix(in srgb, var(--agent) 7%, transparent); }
.by-teacher .text { background: color-mix(in srgb, var(--teacher) 7%, transparent); }
.text span[title]:hover, .text .current {
  background: color-mix(in srgb, var(--by) 28%, transparent); border-radius: 2px;
}
.control {
  display: inline-block; padding: 0 .2rem; border: 1px solid currentColor; border-radius: 3px;
  font-size: .92em; line-height: 1.3;
}
.newline::before { content: "\\21b5"; opacity: .5; }
.part::before { content: "\\00b7"; opacity: .5; }
.switch {
  border: 0; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline;
}
.switch legend { float: left; padding: 0; }
.switch label { white-space: nowrap; cursor: pointer; }
.lines .loss .words,
:root:has(.switch .show-0:checked) .loss-0,
:root:has(.switch .show-1:checked) .loss-1,
:root:has(.switch .show-2:checked) .loss-2 {
  text-decoration: underline 2px; text-underline-offset: .28em; text-decoration-skip-ink: none;
}
:root:has(.switch .show-0:checked) .some-0,
:root:has(.switch .show-1:checked) .some-1,
:root:has(.switch .show-2:checked) .some-2 { text-decoration-style: dashed; }
:root:has(.switch .show-0:checked) .loss-0 .control,
:root:has(.switch .show-1:checked) .loss-1 .control,
:root:has(.switch .show-2:checked) .loss-2 .control { border-bottom-width: 3px; }
.view-0, .view-1, .view-2 { display: none; }
:root:has(.switch .show-0:checked) .view-0,
:root:has(.switch .show-1:checked) .view-1,
:root:has(.switch .show-2:checked) .view-2 { display: inline; }
.legend {
  list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .9rem;
}
.legend [class^="by-"] { color: var(--by); font-weight: 600; }
.legend u { text-decoration: underline 2px; text-underline-offset: .28em; }
.readout {
  position: fixed; left: 0; right: 0; bottom: 0; padding: .4rem 1rem; background: var(--ink);
  color: var(--paper); font-size: .85rem; overflow-wrap: anywhere;
}
.readout:empty { display: none; }
@media (max-width: 40rem) {
  .tokens .turn { display: block; }
  .turn .who { padding: .3rem 0 0; }
  .turn .who small { display: inline; margin-left: .4rem; }
  .tokens .text { margin: .1rem 0 .4rem; padding: .1rem .5rem; }
  .switch legend { float: none; }
}
@media print {
  :root {
    color-scheme: light;
    --ink: #000; --faint: #444; --paper: #fff; --line: #bbb; --bar: #fff; --loss: #fff1c9;
    --agent: #a3106d; --teacher: #0b6b2f; --user: #0a5796; --tool: #80500a; --verifier: #5a35b5;
    --environment: #5f6870; --system: #3d4852;
  }
  .readout { display: none; }
  .switch label:not(:has(:checked)) { display: none; }
  .switch input { display: none; }
  .lines { break-inside: avoid; }
  .turn .text { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

PAGE_STYLE = """
body {
  margin: 0 auto; padding: 1.2rem 1.2rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.35rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.lead { font-size: 1.15rem; margin: 0 0 1.2rem; max-width: 48rem; }
.note { color: var(--faint); max-width: 48rem; }
.bar {
  position: sticky; top: 0; z-index: 1; background: var(--bar); border: 1px solid var(--line);
  border-radius: 6px; padding: .5rem .8rem; margin: .8rem 0 1.2rem; font-size: .9rem;
}
.legend { margin-top: 1.2rem; }
.scroll { overflow-x: auto; }
.counts { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.counts caption { text-align: left; color: var(--faint); font-size: .85rem; padding-bottom: .25rem; }
.counts th, .counts td {
  padding: .2rem 0 .2rem 1.2rem; text-align: right; border-bottom: 1px solid var(--line); font-weight: 400;
}
.counts thead th { color: var(--faint); font-size: .85rem; vertical-align: bottom; }
.counts th:first-child { text-align: left; padding-left: 0; }
.counts tbody th { color: var(--by); font-weight: 600; }
.counts tbody tr:last-child > * { border-bottom: 0; font-weight: 600; }
@media (max-width: 40rem) {
  body { padding: .8rem .8rem 4rem; }
  .bar { padding: .4rem .6rem; font-size: .82rem; }
  .counts { font-size: .84rem; }
  .counts thead th { font-size: .7rem; }
  .counts th, .counts td { padding-left: .4rem; }
}
@media print {
  body { max-width: none; padding: 0; }
  .bar { position: static; }
}
"""

SCRIPT = """
(() => {
  const readout = document.createElement("output");
  readout.className = "readout";
  readout.setAttribute("aria-live", "polite");
  document.body.append(readout);
  let current = null;
  const choose = token => {
    if (current) current.classList.remove("current");
    current = token;
    readout.textContent = token ? JSON.stringify(token.textContent) + "  " + token.title : "";
    if (token) { token.classList.add("current"); token.scrollIntoView({ block: "nearest" }); }
  };
  const tokenAt = event => event.target.closest ? event.target.closest(".tokens span[title]") : null;
  document.addEventListener("click", event => choose(tokenAt(event)));
  document.addEventListener("mouseover", event => {
    const token = tokenAt(event);
    if (token) readout.textContent = JSON.stringify(token.textContent) + "  " + token.title;
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape") return choose(null);
    const box = event.target.closest ? event.target.closest(".tokens") : null;
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!box || step === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    const tokens = [...box.querySelectorAll("span[title]")];
    const at = tokens.indexOf(current);
    choose(tokens[Math.max(0, Math.min(tokens.length - 1, at < 0 && step === -1 ? 0 : at + step))]);
    event.preventDefault();
  });
})();
"""
