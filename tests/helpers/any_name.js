// The page of test_any_name: the front end on bodies that the test hands over.

import { App } from "./static/app.js";
import { named } from "./static/format.js";
import { unpack } from "./static/wire.js";
const body = (text) => unpack(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
window.show = async (text, view, name) => {
  const data = JSON.parse(text);
  const source = {
    live: false,
    catalogue: async () => data.catalogue, runs: async () => data.runs, rows: async () => data.rows,
    steps: async () => body(data.steps), column: async () => body(data.column),
    step: async () => body(data.step), parameter: async () => body(data.parameter),
    scalars: async () => ({ tags: [] }),
    findings: async () => ({ findings: [] }),
  };
  window.app?.destroy();
  document.body.replaceChildren();
  // Without telling the pages before this one.
  history.replaceState(null, "", `#p.lightning_adapt.view=${view}&p.lightning_adapt.sort=worst`);
  window.app = new App(source, document.body);
  await window.app.start();
  const texts = (selector) => Array.from(document.querySelectorAll(selector), (e) => e.textContent);
  const lines = texts(".label .name");
  const shown = { overview: lines, compare: lines, step: texts(".figures tbody th"), parameter: texts("h2") }[view];
  return {
    messages: texts(".messages p"),
    shown,
    expected: data.rows.rows.map((row) => named(row.name)),
    foreign: document.querySelectorAll("main script, main img, main iframe, main a, main style").length,
    pwned: typeof window.pwned,
  };
};
window.ready = true;
