"""The style of report.html: one narrow column that grows, light and dark, no colour that says something alone."""

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--paper:#fbfbf9;--card:#fff;--ink:#1c1e21;--soft:#5c636b;--line:#dcdfe3;--good:#1a7f4b;
--bad:#c0322b;--mild:#9a6700;--none:#8b929a;--goodpaper:#e4f4eb;--badpaper:#fbe7e5;--mildpaper:#fbf1d9;--code:#f1f2f4;--link:#0b5cad}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1c2024;--ink:#e6e8ea;--soft:#9aa3ac;--line:#333a41;--good:#4cc38a;
--bad:#ff7b72;--mild:#e3b341;--none:#78818b;--goodpaper:#12301f;--badpaper:#3a1a19;--mildpaper:#33290f;--code:#262b31;--link:#79b8ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:1120px;margin:0 auto;padding:16px 16px 64px}
a{color:var(--link)}
h1{font-size:1.15rem;margin:0 0 12px;font-weight:600;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:44px 0 12px;padding-top:4px;border-top:2px solid var(--ink)}
p{margin:8px 0}
.soft{color:var(--soft)}
code,pre{font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
code{background:var(--code);border-radius:4px;padding:1px 4px}
pre{background:var(--code);border-radius:6px;padding:8px 10px;margin:4px 0;white-space:pre-wrap;max-height:22em;overflow:auto}
.verdict{border-radius:10px;padding:18px 20px;border-left:10px solid;overflow-wrap:anywhere}
.verdict strong{display:block;font-size:1.7rem;line-height:1.2}
.verdict ul{margin:8px 0 0;padding-left:20px}
.verdict.good{background:var(--goodpaper);border-color:var(--good)}
.verdict.bad{background:var(--badpaper);border-color:var(--bad)}
.verdict.mild{background:var(--mildpaper);border-color:var(--mild)}
.tiles{display:grid;grid-template-columns:repeat(3,1fr);gap:12px;margin:16px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
.tile b{display:block;font-size:1.6rem;line-height:1.2;font-variant-numeric:tabular-nums}
.tile.bad b{color:var(--bad)}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin:12px 0}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:4px 16px;margin:12px 0}
dl.facts dt{color:var(--soft)}
dl.facts dd{margin:0;overflow-wrap:anywhere;min-width:0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:500;font-size:.85rem}
td.n,th.n{text-align:right}
.mark{display:inline-block;border-radius:4px;padding:0 7px;font-size:.85rem;font-weight:600;white-space:nowrap;border:1px solid}
.mark.passed{color:var(--good)}.mark.failed{color:var(--bad)}.mark.waived,.mark.partly{color:var(--mild)}
.mark.none{color:var(--none)}
.bars{display:grid;grid-template-columns:minmax(0,15em) minmax(60px,1fr) auto;gap:6px 12px;align-items:center}
.bars .op{overflow-wrap:anywhere;font:13px/1.3 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.track{position:relative;height:14px;background:var(--code);border-radius:3px}
.fill{position:absolute;left:0;top:0;bottom:0;min-width:2px;background:var(--good);border-radius:3px}
.fill.mild{background:repeating-linear-gradient(135deg,var(--mild) 0 5px,transparent 5px 8px),var(--mildpaper);border:1px solid var(--mild)}
.limit{position:absolute;left:80%;top:-2px;bottom:-2px;border-left:1px dashed var(--soft)}
.bars .n{text-align:right;font-variant-numeric:tabular-nums;font-size:.9rem}
details.card{background:var(--card);border:1px solid var(--line);border-left:5px solid var(--bad);border-radius:8px;margin:10px 0}
details.card>summary{padding:10px 14px;cursor:pointer;overflow-wrap:anywhere}
details.card>summary b{font-size:1.02rem}
details.card>div{padding:0 14px 12px}
.why{display:grid;grid-template-columns:1fr;gap:2px 14px;margin:8px 0}
.why>*{min-width:0}
.why .k{color:var(--soft);font-size:.85rem;margin-top:6px}
.like{border:1px dashed var(--mild);background:var(--mildpaper);border-radius:6px;padding:4px 10px;margin:8px 0;overflow-wrap:anywhere}
.variant{border-top:1px solid var(--line);margin-top:12px;padding-top:8px;overflow-wrap:anywhere}
.map{display:grid;grid-template-columns:1fr;gap:2px 14px;align-items:start}
.map .area{font-size:.85rem;color:var(--soft);margin-top:6px}
.cells{display:flex;flex-wrap:wrap;gap:3px}
.cell{display:inline-block;width:18px;height:18px;line-height:16px;border-radius:3px;text-align:center;font-size:11px;font-weight:700;
text-decoration:none;border:1px solid var(--none);color:var(--none)}
.cell.passed{background:var(--good);border-color:var(--good);color:var(--card)}
.cell.failed{background:var(--bad);border-color:var(--bad);color:var(--card)}
.cell.waived,.cell.partly{background:var(--mildpaper);border-color:var(--mild);color:var(--mild)}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;margin:10px 0;font-size:.9rem}
details.group{margin:6px 0}
details.group>summary{cursor:pointer;padding:6px 0;font-weight:600}
details.clause{border-top:1px solid var(--line)}
details.clause>summary{cursor:pointer;padding:5px 2px;display:grid;grid-template-columns:6.2em 4.6em minmax(0,1fr) auto;gap:10px;list-style:none;align-items:baseline}
details.clause>summary::-webkit-details-marker{display:none}
details.clause>summary::before{content:none}
details.clause>summary b::before{content:"+ ";color:var(--soft)}
details.clause[open]>summary b::before{content:"\\2212\\00a0"}
details.clause>div{padding:0 2px 12px;overflow-wrap:anywhere}
details.clause:target{outline:2px solid var(--link);outline-offset:2px}
.num{font-variant-numeric:tabular-nums}
@media (min-width:720px){.why.pair{grid-template-columns:1fr 1fr}.map{grid-template-columns:17em minmax(0,1fr)}.map .area{margin:0}
main{padding:28px 28px 80px}.verdict strong{font-size:2.1rem}}
@media (max-width:480px){.tile{padding:8px 10px}.tile b{font-size:1.25rem}dl.facts{grid-template-columns:1fr;gap:0}dl.facts dd{margin-bottom:6px}
.bars{grid-template-columns:minmax(0,1fr) auto}.bars .track{grid-column:1/-1;grid-row:auto;order:0;margin-bottom:6px}
.bars .op{grid-column:1}.bars .n{grid-column:2}
details.clause>summary{grid-template-columns:5.6em minmax(0,1fr) auto;gap:6px}details.clause .level{display:none}}
@media print{details.card>summary,details.group>summary{break-after:avoid}pre{max-height:none}}
"""
