"""The page's style sheet: system fonts, a reflowing grid, light, dark and print."""

from __future__ import annotations

__all__ = ["CSS"]

CSS = """
:root{color-scheme:light dark;--bg:#f7f6f3;--card:#fff;--ink:#1d1c1a;--muted:#625e58;
--line:#e3dfd8;--grid:#e9e5de;--first:#2f62c8;--second:#ae4a0a;--soft:#eef2fb}
@media (prefers-color-scheme:dark){:root{--bg:#121316;--card:#1b1d21;--ink:#ecebe7;
--muted:#a8a49d;--line:#2f3238;--grid:#2c2f35;--first:#86abff;--second:#ff9d5c;--soft:#1d2433}}
@media print{:root{--bg:#fff;--card:#fff;--ink:#000;--muted:#444;--line:#bbb;--grid:#ddd;
--first:#2f62c8;--second:#ae4a0a;--soft:#fff;color-scheme:light}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0 auto;max-width:1160px;padding:0 clamp(14px,3vw,36px) 48px;background:var(--bg);
color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
"Noto Sans","Liberation Sans",Arial,sans-serif;font-variant-numeric:tabular-nums;
overflow-wrap:anywhere}
h1,h2,h3,h4,p,ul,dl,figure{margin:0;text-wrap:pretty}
ul{padding:0;list-style:none}
code{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;
background:var(--soft);padding:.08em .38em;border-radius:4px}
.hero{padding:clamp(32px,6vw,72px) 0 28px}
.eyebrow{color:var(--muted);letter-spacing:.02em}
h1{font-size:clamp(2.1rem,6vw,3.6rem);line-height:1.08;letter-spacing:-.025em;font-weight:700;
margin:.1em 0 .3em}
.verdict{font-size:clamp(1.1rem,2.2vw,1.35rem);line-height:1.4;max-width:44ch;color:var(--ink)}
.headline{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:0;
margin:30px 0 26px;border-top:2px solid var(--ink);border-bottom:1px solid var(--line)}
.headline li{padding:14px 18px 14px 0}
.headline strong{display:block;font-size:clamp(1.5rem,3.4vw,2.1rem);line-height:1.2;
letter-spacing:-.02em;font-weight:650}
.headline span{color:var(--muted);font-size:.9rem}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:14px 24px}
.facts dt{color:var(--muted);font-size:.82rem}
.facts dd{margin:0;font-size:.98rem;line-height:1.4}
.facts .wide{grid-column:span 2}
nav{position:sticky;top:0;z-index:1;background:var(--bg);border-bottom:1px solid var(--line);
margin:0 calc(-1*clamp(14px,3vw,36px));padding:0 clamp(14px,3vw,36px);overflow-x:auto;
scrollbar-width:none}
nav::-webkit-scrollbar{display:none}
nav ul{display:flex;gap:22px;white-space:nowrap;overflow-wrap:normal}
nav a{display:block;padding:11px 0;color:var(--muted);text-decoration:none;font-size:.92rem}
nav a:hover{color:var(--ink);text-decoration:underline;text-underline-offset:4px}
:focus-visible{outline:2px solid var(--first);outline-offset:2px;border-radius:3px}
section{padding-top:56px;scroll-margin-top:8px}
h2{font-size:clamp(1.45rem,3vw,1.9rem);line-height:1.2;letter-spacing:-.015em;font-weight:680}
.lead{color:var(--muted);max-width:68ch;margin-top:6px}
h3{font-size:1.02rem;font-weight:640;line-height:1.3}
h4{font-size:.95rem;font-weight:620;line-height:1.3}
h3.column{margin:26px 0 0;font-size:1.12rem}
.missing{margin-top:14px;padding:10px 14px;border-left:3px solid var(--second);
background:var(--card);color:var(--muted);border-radius:0 6px 6px 0}
.missing code{color:var(--ink)}
.grid{display:grid;gap:16px;margin-top:16px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,310px),1fr))}
.grid.half{grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
.grid.tiny{grid-template-columns:repeat(auto-fill,minmax(min(100%,230px),1fr))}
.grid.wide{grid-template-columns:1fr}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 16px 14px;
min-width:0;display:flex;flex-direction:column;break-inside:avoid}
.card svg{display:block;width:100%;height:auto;margin:8px 0 4px;overflow:visible}
.narrow{display:none}
@media (max-width:640px){.narrow{display:block}.broad{display:none}}
.card svg text{font-family:inherit!important}
svg *{stroke-linejoin:round;stroke-linecap:butt}
.halo text{paint-order:stroke;stroke:var(--card);stroke-width:4px;font-weight:650!important}
.unit,.reading{color:var(--muted);font-size:.86rem;line-height:1.45}
.reading{margin-top:auto;padding-top:6px;color:var(--ink)}
.beside{display:grid;gap:16px;grid-template-columns:minmax(0,1fr);margin-top:16px}
.beside .grid{margin:0;grid-template-columns:1fr}
@media (min-width:860px){.beside{grid-template-columns:minmax(0,1fr) 280px;align-items:start}}
.beside .key .missing{margin:0;padding:0;border:0}
.legend{display:flex;flex-wrap:wrap;gap:4px 22px;margin-top:14px;font-size:.9rem}
.legend li{display:flex;align-items:center;gap:8px}
.swatch{width:20px;height:12px;border-radius:2px;flex:none}
.swatch.first{background:var(--first)}.swatch.second{background:var(--second)}
.swatch.off{background:var(--grid);border:1px solid var(--muted)}
.swatch.outline{background:none;border:2px solid var(--second)}
.swatch.line{height:0;background:none;border-radius:0;border-top:3px solid var(--first)}
.swatch.line.second{border-color:var(--second)}.swatch.dashed{border-top-style:dashed}
.categories{margin-top:8px;display:grid;gap:2px 20px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,128px),1fr))}
@media (min-width:860px){.categories{grid-template-columns:1fr}}
.categories li{display:flex;gap:9px;align-items:baseline;font-size:.92rem}
.dot{width:11px;height:11px;border-radius:50%;flex:none}
.categories .name{min-width:0}.categories .count{margin-left:auto;color:var(--muted)}
.bar{height:14px;border-radius:3px;margin-top:12px}
.ends{display:flex;justify-content:space-between;gap:10px;color:var(--muted);font-size:.86rem}
.tiles{display:grid;gap:8px;margin:12px 0 6px;
grid-template-columns:repeat(8,1fr)}
.tiles.pairs{gap:12px 8px}
.tiles img{display:block;width:100%;height:auto;image-rendering:pixelated;border-radius:3px}
.tiles.pairs img:first-child{border-radius:3px 3px 0 0}
.tiles.pairs img:last-child{border-radius:0 0 3px 3px;margin-top:2px}
.scroll{overflow-x:auto;margin-top:16px;background:var(--card);border:1px solid var(--line);
border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:.94rem}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{padding:10px 16px;text-align:left;vertical-align:baseline;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--muted);font-weight:500;font-size:.84rem}
tbody th{font-weight:600}
.figures td:nth-child(2),.figures td:nth-child(3){white-space:nowrap}
.figures td:nth-child(2){font-weight:600}
.figures td:last-child{color:var(--muted);max-width:52ch}
.values{overflow-wrap:normal}.values td,.values thead th{white-space:nowrap;line-height:1.4}
.above{color:var(--muted);font-size:.9rem;margin:14px 0 -8px}
.values tbody th{overflow-wrap:anywhere;min-width:140px}
.back{color:var(--second)}
.plain td{color:var(--muted)}.plain tbody th{font-weight:500;width:36%}
details{margin-top:16px}
summary{cursor:pointer;color:var(--muted);width:fit-content}
summary:hover{color:var(--ink)}
.notes{margin-top:12px}.notes li{padding:6px 0 6px 16px;border-left:3px solid var(--line)}
.notes li+li{margin-top:6px}
footer{margin-top:64px;padding-top:16px;border-top:1px solid var(--line);color:var(--muted);
font-size:.86rem}
@media (max-width:640px){
.figures thead{display:none}
.figures tr{display:grid;grid-template-columns:1fr 1fr;gap:2px 16px;padding:12px 14px;
border-top:1px solid var(--line)}
.figures tbody tr:first-child{border-top:0}
.figures th,.figures td{border:0;padding:0;white-space:normal!important}
.figures th,.figures td:last-child{grid-column:1/-1}.figures td:empty{display:none}
.figures td:nth-child(2):has(+td:empty){grid-column:1/-1}
.figures td:nth-child(2):has(+td:empty)::before{display:none!important}
.tiles{grid-template-columns:repeat(4,1fr)}
.figures td:nth-child(2)::before,.figures td:nth-child(3)::before{content:attr(data-label);
display:block;color:var(--muted);font-size:.78rem;font-weight:400}
.plain th,.plain td,.values th,.values td{padding:8px 12px}
.plain tbody th{width:44%}
}
@media print{body{max-width:none;font-size:11pt;padding:0}nav,summary{display:none}
section{padding-top:24px}h2,h3,h4,.lead,.above,.legend{break-after:avoid}.hero{padding-top:0}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
