// What TensorBoard loads into the frame of the tab, with all that it imports in one file.

import { App } from "./app.js";
import { drawAfter } from "./charts.js";
import { h } from "./dom.js";
import { HttpSource } from "./source.js";

// The address of this module names a version, which the browser may keep; the other files are of the same.
const { search } = new URL(import.meta.url);

/** TensorBoard calls this once. */
export async function render() {
  document.documentElement.lang = "en";
  document.title = "Optimizer dynamics";
  const library = script(`./static/plotly.min.js${search}`).catch(withoutCharts);
  document.head.append(h("link", { rel: "stylesheet", href: `./static/style.css${search}` }));
  drawAfter(library);
  await new App(new HttpSource(), document.body).start();
}

/** Say why there are no charts, instead of the page; what waits for them waits for ever. */
async function withoutCharts() {
  const answer = await fetch("./static/plotly.min.js").then((response) => response.text(), () => "TensorBoard does not answer");
  const message = h("p", { role: "alert", class: "message" }, `The charts could not be loaded: ${answer.slice(0, 300)}`);
  document.body.replaceChildren(message);
  return new Promise(() => {});
}

function script(source) {
  return new Promise((resolve, reject) => {
    document.head.append(h("script", { src: source, onload: resolve, onerror: reject }));
  });
}
