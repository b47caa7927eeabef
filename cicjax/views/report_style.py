"""How the report looks on a wide screen, on a phone, in the dark and on paper; and the script that opens
folded tables for print.

Folded transcripts stay as the reader left them: all of them would be a book.
"""

STYLE = """
:root {
  --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --paper: #ffffff; --page: #f6f7f9; --tint: #e9edf1;
  --link: #1f5f99; --shade: rgba(20, 26, 32, .16); --good: #13795b; --bad: #b3382c;
  --mono: .82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e7eb; --soft: #a3acb6; --line: #3a424b; --paper: #1a1e23; --page: #121518; --tint: #2a3138;
    --link: #7db7ea; --shade: rgba(0, 0, 0, .6); --good: #5cc9a2; --bad: #f08f83;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
footer { padding-top: 2rem; padding-bottom: 3rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .4rem; }
p, ul { max-width: 46rem; margin: .5rem 0 .8rem; }
ul { padding-left: 1.2rem; }
a { color: var(--link); }
pre { margin: .25rem 0 .45rem; white-space: pre-wrap; overflow-wrap: anywhere; font: var(--mono); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .92rem; margin: .8rem 0; }
.soft, .note, .caption, figcaption { color: var(--soft); font-size: .88rem; }
.lead {
  background: var(--paper); border: 1px solid var(--line); border-left: 4px solid #0f9a70; border-radius: 6px;
  padding: .5rem 1rem;
}
.lead ul { max-width: none; }
.facts { display: flex; flex-wrap: wrap; gap: .3rem .5rem; margin: .6rem 0; font-size: .86rem; }
.facts { padding: 0; list-style: none; max-width: none; }
.facts li { background: var(--tint); border-radius: 4px; padding: .1rem .5rem; overflow-wrap: anywhere; }

.panel, figure, details { background: var(--paper); border: 1px solid var(--line); border-radius: 6px; }
.panel { margin: .6rem 0 1rem; min-width: 0; overflow: hidden; }
.caption { margin: 0; padding: .5rem .7rem; max-width: none; }
.wide {
  overflow-x: auto;
  background:
    linear-gradient(to left, var(--paper) 40%, transparent) right / 48px 100% no-repeat local,
    linear-gradient(to left, var(--shade), transparent) right / 14px 100% no-repeat scroll;
}
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td {
  padding: .34rem .6rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line);
  vertical-align: middle;
}
thead th {
  border-top: 0; color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal;
  line-height: 1.25;
}
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--paper); z-index: 1; }
th:first-child, th.words, td.words, table.text td, table.text th, table.map td, table.map th {
  text-align: left;
}
table.map th { width: 1%; min-width: 3.4rem; }
thead th { min-width: 4.2rem; }
td.words, table.text td { white-space: normal; min-width: 13rem; }
table.text td { overflow-wrap: anywhere; min-width: 8rem; }
td.up { color: var(--good); }
td.down { color: var(--bad); }
.name { display: flex; align-items: baseline; }
.chip { flex: none; width: .7em; height: .7em; border-radius: 2px; margin-right: .45em; }
.strip {
  position: relative; display: inline-block; width: 84px; height: .8em; margin-left: .6em;
  background: var(--tint);
}
.strip i, .strip b { position: absolute; top: 0; bottom: 0; }
.strip i { opacity: .38; border-radius: 2px; }
.strip b { width: 3px; margin-left: -1px; }
.squares { --w: 7px; display: flex; gap: 1px; }
.squares i { flex: none; width: var(--w); height: 15px; border-radius: 1px; background: var(--tint); }
.squares .on { background: var(--c); }
.squares .gap { margin-left: 6px; }
.skills { align-items: flex-end; margin-top: .4rem; font-weight: 400; }
.skills span {
  flex: none; width: calc(var(--n) * (var(--w) + 1px) - 1px); display: flex; align-items: center;
  writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; line-height: 1;
}
dl.words { margin: .2rem 0; columns: 2 24rem; column-gap: 2rem; font-size: .88rem; }
dl.words div { break-inside: avoid; margin-bottom: .25rem; }
dl.words dt { display: inline; font-weight: 600; }
dl.words dt::after { content: ": "; }
dl.words dd { display: inline; margin: 0; color: var(--soft); }
.columns {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 0 16px;
  align-items: start;
}
@media (min-width: 901px) { .columns.uneven { grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); } }

.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }
figure { margin: 0; break-inside: avoid; padding: 14px 14px 10px; }
figure svg {
  display: block; width: 100%; max-width: 540px; height: auto; margin: 0 auto;
  stroke-linejoin: round; stroke-linecap: butt;
}
figure svg text {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important; fill: currentColor;
}
figcaption { margin-top: .5rem; line-height: 1.45; }

details { margin: .5rem 0; padding: 0 .9rem; }
details[open] { padding-bottom: .8rem; }
details .panel { border: 0; }
summary { cursor: pointer; padding: .5rem 0; font-weight: 600; overflow-wrap: anywhere; }
summary .soft { font-weight: 400; }
.views { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 0 12px; }
.views h3 { margin-top: .4rem; }
.legend { margin: .5rem 0 .8rem; max-width: none; }
.answers {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 10px;
  align-items: start;
}
.answer {
  border: 1px solid var(--line); border-radius: 5px; padding: .45rem .6rem; min-width: 0; font-size: .88rem;
}
.answer pre { max-height: 12.5em; overflow: auto; }
.right { color: var(--good); font-weight: 600; }
.wrong { color: var(--bad); font-weight: 600; }
.word {
  border: 1px solid; border-radius: 999px; padding: .05rem .6rem; font-weight: 600; white-space: nowrap;
}
.word.holds { color: var(--good); }
.word.fails { color: var(--bad); }
.word.open { color: var(--soft); }
.word.descriptive { border-style: dashed; }
.command { background: var(--tint); border-radius: 5px; padding: .6rem .8rem; }

@media (max-width: 900px) { .figures { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 560px) {
  body { font-size: 15px; }
  main, header, footer { padding-left: 12px; padding-right: 12px; }
  h1 { font-size: 1.4rem; }
  figure { padding: 8px 4px; }
  figcaption { padding: 0 6px; }
  th, td { padding: .3rem .45rem; }
  tbody th { white-space: normal; min-width: 6.2rem; line-height: 1.25; }
  td.words { min-width: 8rem; }
  .strip { width: 60px; }
}
@media print {
  @page { margin: 14mm; }
  :root { --page: #fff; --shade: transparent; }
  body { font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main, header, footer { max-width: none; padding: 0; }
  nav { display: none; }
  h2, h3, .caption { break-after: avoid; }
  .panel, .wide { overflow: visible; background: none; }
  .panel { border: 0; }
  figure, tr, .answer, .lead { break-inside: avoid; }
  .answer pre { max-height: none; }
  th, td { padding: .15rem .3rem; font-size: 7.5pt; white-space: normal; }
  .strip { width: 40px; }
  .squares { --w: 4px; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
"""

SCRIPT = """
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details.tables:not([open])")];
  opened.forEach(part => part.open = true);
});
addEventListener("afterprint", () => opened.forEach(part => part.open = false));
"""
