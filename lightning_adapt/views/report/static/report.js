// What a report runs: the views of the tab on the data in the page.

import { App } from "../../tab/static/app.js";
import { EmbeddedSource } from "./embedded.js";

const root = document.getElementById("views");

if (typeof DecompressionStream === "undefined") {
  const sentence = document.createElement("p");
  sentence.textContent = "The views below need a browser of 2023 or later: this one cannot decompress their data.";
  root.append(sentence);
} else {
  await new App(new EmbeddedSource(), root).start();
}
