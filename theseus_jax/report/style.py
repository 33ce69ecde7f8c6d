"""The style sheet of the HTML reports: one column, the reader's own fonts, light or dark as preferred."""

CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59616b; --line: #d9dde2; --page: #fdfdfc;
        --box: #f4f5f6; --good: #1a7f4b; --bad: #b3261e; --bad-box: #fcefed; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e6ea; --soft: #9aa3ad; --line: #363c44; --page: #16181b; --box: #1f2226; --good: #5cc48d;
          --bad: #ff8a7d; --bad-box: #33211f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2.5rem 1.5rem 5rem; background: var(--page);
       color: var(--ink); font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
       "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; font-weight: 650; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.8rem 0 .6rem; font-weight: 650; }
p { margin: .6rem 0; max-width: 46rem; }
.meta, .note, figcaption { color: var(--soft); font-size: .875rem; }
.banner { max-width: none; padding: .6rem .9rem; font-weight: 700; color: var(--bad); background: var(--bad-box); }
.lead { font-size: 1.08rem; margin-top: 1.2rem; }
ul.claims { list-style: none; margin: .8rem 0; padding: 0; }
ul.claims li { padding: .55rem .9rem; margin: .4rem 0; border-left: 4px solid var(--good);
               background: var(--box); }
ul.claims li.fails { border-left-color: var(--bad); background: var(--bad-box); }
ul.claims li.undecided { border-left-color: var(--soft); background: none; }
ul.claims .mark { font-weight: 700; color: var(--good); margin-right: .5rem; }
ul.claims .fails .mark { color: var(--bad); }
ul.claims .undecided .mark { color: var(--soft); }
ul.claims .measured { display: block; color: var(--soft); font-size: .875rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .32rem .55rem; border-bottom: 1px solid var(--line); text-align: right;
         white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th.name, td.name { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
tr.ours td { font-weight: 650; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
table.facts td:first-child { color: var(--soft); white-space: nowrap; }
figure { margin: 1rem 0; }
figure svg { display: block; width: 100%; height: auto; color: var(--ink); }
figure svg text { font-family: inherit !important; }
pre { background: var(--box); padding: .8rem 1rem; border-radius: 4px; margin: .4rem 0 1rem;
      font: .8rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
      white-space: pre-wrap; overflow-wrap: anywhere; }
pre .prompt { font-weight: 700; }
summary { cursor: pointer; color: var(--soft); margin: .5rem 0; }
"""
