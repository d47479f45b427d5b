"""The frame of `report.html`: one file, no script, nothing fetched, light or dark as the reader's system has it."""

from html import escape

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2430; --soft: #66717f; --rule: #e3e7ec;
  --a: #2f6bdc; --b: #d9622b; --c: #1f9d76; --d: #9456c9; --e: #c2932a; --f: #d14a86; --heat: #2f6bdc; }
@media (prefers-color-scheme: dark) { :root { --page: #11151b; --card: #191f28; --ink: #e6eaf0; --soft: #93a0b0;
  --rule: #2a323d; --a: #6d9cf5; --b: #f08a55; --c: #46c39b; --d: #b98be6; --e: #dfb654; --f: #f07fb0;
  --heat: #6d9cf5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font-variant-numeric: tabular-nums;
  font: 15px/1.55 system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 20px 64px; }
header h1 { margin: 0; font-size: 30px; letter-spacing: -.02em; }
header p { margin: 4px 0 24px; color: var(--soft); }
h2 { margin: 40px 0 12px; font-size: 18px; letter-spacing: -.01em; }
h3 { margin: 0 0 2px; font-size: 14px; font-weight: 600; }
.note { color: var(--soft); font-size: 13px; margin: 0 0 12px; max-width: 76ch; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 16px 18px; min-width: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: 12px; }
.figures .card { padding: 14px; }
.figures .value { white-space: nowrap; font-size: 21px; font-weight: 650; letter-spacing: -.02em; line-height: 1.25; }
.figures .label { color: var(--soft); font-size: 12.5px; line-height: 1.4; margin-top: 2px; }
.figures .lead { border-color: var(--a); box-shadow: inset 3px 0 0 var(--a); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 14px; }
.wide { margin-top: 14px; }
.chart { display: block; width: 100%; height: auto; }
.grid { stroke: var(--rule); } .mark { stroke: var(--soft); stroke-dasharray: 2 4; }
.tick { fill: var(--soft); font-size: 11px; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.faint { stroke-width: 1; opacity: .3; } .cell { fill: var(--heat); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; color: var(--soft); font-size: 12px; margin-bottom: 6px; }
.legend i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle; }
.scale { display: flex; align-items: center; gap: 8px; color: var(--soft); font-size: 12px; margin: 4px 0 0 52px; }
.scale i { width: 120px; height: 8px; border-radius: 4px;
  background: linear-gradient(90deg, transparent, var(--heat)); }
table { border-collapse: collapse; width: 100%; } .scroll { overflow-x: auto; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 13px; } td, th { padding: 6px 14px 6px 0; }
tbody td, tbody th { border-top: 1px solid var(--rule); vertical-align: top; } .number { text-align: right; }
.sample { margin-bottom: 12px; } .sample h3 { color: var(--soft); font-weight: 500; }
.sample pre { margin: 8px 0 0; padding-left: 14px; border-left: 2px solid var(--rule); white-space: pre-wrap;
  overflow-wrap: anywhere; font: 14px/1.6 ui-serif, Georgia, "Noto Serif", "Noto Serif CJK SC", serif; }
.sample b { color: var(--a); font-weight: 600; }
.drawings { display: flex; flex-wrap: wrap; gap: 14px; margin-top: 10px; } figure { margin: 0; max-width: 240px; }
.drawings.large figure { max-width: 100%; }
img { image-rendering: pixelated; max-width: 100%; border-radius: 6px; display: block; }
audio { display: block; width: 240px; max-width: 100%; height: 36px; margin-top: 4px; }
figcaption { color: var(--soft); font-size: 12.5px; line-height: 1.4; margin-top: 4px; }
details { margin-top: 14px; } summary { cursor: pointer; font-weight: 600; }
details pre { overflow-x: auto; margin: 12px 0 0;
  font: 12.5px/1.5 ui-monospace, Consolas, "DejaVu Sans Mono", monospace; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 14px; }
"""


def page(title: str, subtitle: str, sections: list[str]) -> str:
    """A whole HTML document; `sections` are HTML already, title and subtitle are text."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body><main>\n<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def card(title: str, body: str, note: str = "", css: str = "") -> str:
    """A framed block: title and note are text, body is HTML."""
    note_html = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<div class="card {css}"><h3>{escape(title)}</h3>{note_html}{body}</div>'


def figure(value: str, label: str, lead: bool = False) -> str:
    """One number of the summary, with what it is."""
    css = "card lead" if lead else "card"
    return f'<div class="{css}"><div class="value">{escape(value)}</div><div class="label">{escape(label)}</div></div>'


def table(header: list[str], rows: list[list[str]], first_number: int = 1) -> str:
    """Columns from `first_number` on are set right; all cells are text."""

    def cells(tag: str, values: list[str]) -> str:
        css = ['class="number"' if i >= first_number else "" for i in range(len(values))]
        return "".join(f"<{tag} {c}>{escape(value)}</{tag}>" for c, value in zip(css, values, strict=True))

    head = f"<thead><tr>{cells('th', header)}</tr></thead>" if header else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'
