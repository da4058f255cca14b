"""The look of the report: one sheet for light and dark, a phone and a desk. No font, image or script from elsewhere."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f5f5f2; --card: #ffffff; --ink: #1b1d21; --soft: #5a5f68; --line: #e1e1dc; --link: #2457c5;
  --cell: #ffffff; --error: #c8400e; --importance: #2457c5; --top: 70%;
  --c0: #3568d4; --c1: #d9732b; --c2: #2f8f62; --c3: #a94d97; --c4: #b8901a; --c5: #2f93a6;
  --c6: #8d6b56; --c7: #7c818a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131519; --card: #1b1e24; --ink: #e9eaec; --soft: #a3a9b3; --line: #30343c; --link: #8fb2ff;
    --cell: #1b1e24; --error: #ff8a4a; --importance: #7aa5ff; --top: 52%;
    --c0: #6f9bf5; --c1: #f0955a; --c2: #57bd8c; --c3: #d184c1; --c4: #dab84c; --c5: #63bccd;
    --c6: #b99580; --c7: #979da7;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main, header, footer { max-width: 62rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.75rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
p { margin: .25rem 0 .75rem; color: var(--soft); }
a { color: var(--link); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; margin: .75rem 0 1rem; }
nav a { display: inline-block; padding: .25rem 0; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem; margin: 0 0 1rem;
}
footer { color: var(--soft); font-size: .875rem; padding-bottom: 2rem; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 4px; }

dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.25rem, 1fr)); gap: .75rem 1rem; margin: 0; }
dt { color: var(--soft); font-size: .8125rem; }
dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }

.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .875rem; }
.wide { width: 100%; }
th, td { text-align: left; padding: .3rem .5rem; vertical-align: top; }
.wide tbody th:first-child { white-space: nowrap; }
.wide th:first-child, .wide td:first-child { padding-left: 0; }
thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); white-space: nowrap; }
tbody th { font-weight: 500; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.n { text-align: right; white-space: nowrap; }
.keys { table-layout: fixed; }
.keys th, .keys td { overflow-wrap: anywhere; }
.keys th:first-child { width: 42%; }
.keys tbody th:first-child { white-space: normal; }
.keys small { display: block; color: var(--soft); font-weight: 400; }
bdi { unicode-bidi: isolate; }
code, pre { font: .8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 24rem; overflow-y: auto; margin: .5rem 0 0; }
summary { cursor: pointer; padding: .25rem 0; color: var(--link); }
details > .scroll { margin-top: .5rem; }

.share { display: flex; height: 1.5rem; border-radius: 6px; overflow: hidden; margin: 0 0 .75rem; gap: 1px; }
.share > span { min-width: 2px; }
.swatch { display: inline-block; width: .75rem; height: .75rem; border-radius: 3px; margin-right: .4rem; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; margin: .5rem 0; }
.legend { font-size: .875rem; }
.columns { display: block; width: 100%; height: 11rem; border-bottom: 1px solid var(--line); }
.columns g:hover rect { opacity: .75; }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: .8125rem; }
.f0 { background: var(--c0); fill: var(--c0); } .f1 { background: var(--c1); fill: var(--c1); }
.f2 { background: var(--c2); fill: var(--c2); } .f3 { background: var(--c3); fill: var(--c3); }
.f4 { background: var(--c4); fill: var(--c4); } .f5 { background: var(--c5); fill: var(--c5); }
.f6 { background: var(--c6); fill: var(--c6); } .f7 { background: var(--c7); fill: var(--c7); }

.heat { border-collapse: separate; border-spacing: 2px; font-size: .75rem; margin: 0 auto; }
.heat th { padding: 0 .3rem; border: 0; font-weight: 500; color: var(--soft); }
.heat thead th { vertical-align: bottom; text-align: center; }
.heat thead th span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; padding-top: .25rem; }
.heat tbody th { text-align: right; vertical-align: middle; position: sticky; left: 0; background: var(--card); }
.heat td {
  border: 0; border-radius: 3px; padding: .1rem .2rem; min-width: 1.95rem; text-align: center; vertical-align: middle;
  background: var(--cell); background: color-mix(in srgb, var(--heat) calc(var(--v) * var(--top)), var(--cell));
}
.heat-outside { margin-top: 1rem; }
.heat td.none { background: none; color: var(--soft); }
.heat.error, .scale.error { --heat: var(--error); }
.heat.importance, .scale.importance { --heat: var(--importance); }
.scale { display: flex; align-items: center; gap: .5rem; font-size: .8125rem; color: var(--soft); margin: 0 0 .75rem; }
.scale i {
  flex: 1; max-width: 12rem; height: .75rem; border-radius: 4px; border: 1px solid var(--line);
  background: linear-gradient(to right, var(--cell), color-mix(in srgb, var(--heat) var(--top), var(--cell)));
}
@media (min-width: 48rem) { .heat { font-size: .8125rem; } .heat td { min-width: 3rem; padding: .2rem .3rem; } }
@media (max-width: 30rem) {
  main, header, footer { padding-left: .625rem; padding-right: .625rem; }
  section { padding: .75rem .625rem; }
  th, td { padding: .3rem .35rem; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print { body { background: none; } section { break-inside: avoid; } nav { display: none; } }
"""
