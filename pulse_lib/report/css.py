"""How report.html looks: light and dark, on screen and on paper."""

CSS = """\
:root { color-scheme: light dark; --bg: #fbfaf8; --card: #ffffff; --ink: #23272e; --mute: #667085;
  --line: #e4e2dd;
  --accent: #0173b2; --yes: #027a5b; --no: #b4530a; --open: #667085; }
@media (prefers-color-scheme: dark) { :root { --bg: #16181c; --card: #1f2227; --ink: #e7e5e0;
  --mute: #9aa3b0; --line: #33373e;
  --accent: #56b4e9; --yes: #3fbf97; --no: #e89b4c; --open: #9aa3b0; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 3.5rem; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  }
header, main, footer { max-width: 1080px; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 2.1rem; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 0.25rem; }
h2 { font-size: 1.45rem; letter-spacing: -0.01em; margin: 2.75rem 0 0.75rem; }
h3 { font-size: 1.12rem; margin: 0 0 0.75rem; }
.sub, small, figcaption, footer { color: var(--mute); }
p { max-width: 78ch; }
nav { position: sticky; top: 0; z-index: 2; background: color-mix(in srgb, var(--bg) 88%,
  transparent);
  backdrop-filter: blur(6px); border-bottom: 1px solid var(--line); margin-top: 1.5rem; padding:
  0.5rem max(1.25rem, calc((100vw - 1040px) / 2)); }
nav { overflow-x: auto; white-space: nowrap; }
nav a { color: var(--accent); text-decoration: none; margin-right: 1.4rem; font-size: 0.95rem;
  white-space: nowrap; }
nav a:hover { text-decoration: underline; }
.tiles { display: flex; gap: 0.75rem; flex-wrap: wrap; }
.tile { background: var(--card); border: 1px solid var(--line); border-left: 5px solid var(--open);
  border-radius: 8px; padding: 0.5rem 1.1rem; }
.tile b { font-size: 1.6rem; margin-right: 0.5rem; font-variant-numeric: tabular-nums; }
.tile.yes { border-left-color: var(--yes); } .tile.no { border-left-color: var(--no); }
.warn { border: 1px solid var(--no); border-radius: 8px; padding: 0.6rem 1rem; overflow-wrap:
  anywhere; }
.warn ul { margin: 0.3rem 0 0; padding-left: 1.2rem; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: 0.5rem
  0; padding: 0 1rem; }
summary { cursor: pointer; padding: 0.65rem 0; }
.finding summary { display: flex; gap: 0.9rem; align-items: baseline; }
.badge { flex: 0 0 9.5rem; font-size: 0.8rem; font-weight: 600; text-align: center; border-radius:
  99px; padding: 0.1rem 0.6rem;
  border: 1.5px solid var(--open); color: var(--open); }
.yes .badge { border-color: var(--yes); color: var(--yes); } .no .badge { border-color: var(--no);
  color: var(--no); }
figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin:
  1.25rem 0; padding: 1.1rem 1.25rem; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 6px;
  background: #ffffff; }
figcaption { margin-top: 0.75rem; font-size: 0.93rem; }
.scroll { overflow-x: auto; margin: 0.5rem 0 0.75rem; }
table { border-collapse: collapse; font-size: 0.85rem; }
th { text-align: left; font-weight: 600; color: var(--mute); vertical-align: bottom; line-height:
  1.25; }
th, td { padding: 0.28rem 0.8rem 0.28rem 0; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th.n { text-align: right; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; font-size: 0.82rem; line-height: 1.5; }
code { font-size: 0.9em; }
footer { padding: 2rem 1.25rem 3rem; font-size: 0.9rem; }
@media (max-width: 640px) { .finding summary { display: block; } .badge { display: inline-block;
  margin: 0 0.5rem 0.3rem 0; } }
@media print { nav { display: none; } details { break-inside: avoid; } figure { break-inside: avoid;
  } }
"""
