// What TensorBoard loads into the frame of the tab.

import { App } from "./app.js";
import { h } from "./dom.js";
import { HttpSource } from "./source.js";

/** TensorBoard calls this once. */
export async function render() {
  document.documentElement.lang = "en";
  document.title = "Optimizer dynamics";
  document.head.append(h("link", { rel: "stylesheet", href: "./static/style.css" }));
  try {
    await script("./static/plotly.min.js");
  } catch {
    const answer = await fetch("./static/plotly.min.js").then((response) => response.text(), () => "TensorBoard does not answer");
    document.body.append(h("p", { role: "alert", class: "message" }, `The charts could not be loaded: ${answer.slice(0, 300)}`));
    return;
  }
  await new App(new HttpSource(), document.body).start();
}

function script(source) {
  return new Promise((resolve, reject) => {
    document.head.append(h("script", { src: source, onload: resolve, onerror: reject }));
  });
}
