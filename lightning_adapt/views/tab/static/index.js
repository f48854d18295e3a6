// What TensorBoard loads into the frame of the tab.

import { App } from "./app.js";
import { drawAfter } from "./charts.js";
import { h } from "./dom.js";
import { HttpSource } from "./source.js";

/** TensorBoard calls this once. */
export async function render() {
  document.documentElement.lang = "en";
  document.title = "Optimizer dynamics";
  document.head.append(h("link", { rel: "stylesheet", href: "./static/style.css" }));
  const library = script("./static/plotly.min.js").catch(withoutCharts);
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
